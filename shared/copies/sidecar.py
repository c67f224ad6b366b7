"""The sidecar of a copy, `<stamp>.json`: of what it is, how it was made, and its digest.

It is what makes an `.ova` a copy: without its sidecar a file never counts. It can be read without
the state database, by people and by a restore on a machine that knows nothing else.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from annotated_types import Interval

from shared.copies.names import SIDES, Suffix, final_name, is_stamp
from shared.copies.sidecar_fields import (
    Rehearsed,
    Screenshot,
    SideFile,
    Time,
    Verified,
    Wire,
)
from shared.host.clock import parse_timestamp
from shared.host.document_fields import FROM_JSON, Count, FieldCheck, Number, Sha256
from shared.host.documents import Document, load
from shared.host.errors import CopyError
from shared.ova.parts import Parts
from shared.state.hold import Marks

#: The schema of a copy that was read in full when it was made, and that of one that was not. Its
#: manifest has no digests of its disks, so that programs of version 0.1 would call it damaged: they
#: do not know the schema, and do not count it.
_SCHEMA: Final = 1
_SCHEMA_OF_PARTS: Final = 2
#: No sidecar is longer; a file that is, is none.
LIMIT_BYTES: Final = 1 << 20

#: Fields that are written only if they say something.
_OPTIONAL: Final = frozenset(
    {
        "verified",
        "rehearsed",
        "screenshot",
        "pinned",
        "engine_reason",
        "frozen",
        "not_paused",
        "paused_seconds",
        "wire",
        "refused",
        "key",
        "repository",
        "taken_from",
        "suspect",
        "index",
        "parts",
        "oldest_read",
        "holds",
    }
)
#: Stands for the pin of a copy that is held and not pinned: programs that do not know holds leave
#: pinned copies alone.
_PIN_OF_HOLD: Final = "held"

_Stamp = Annotated[str, FieldCheck(is_stamp, "no stamp of a copy")]
_Claim = Annotated[int, Interval(ge=1, le=(1 << 63) - 1)]


@dataclass(frozen=True, slots=True)
class Sidecar(Document):
    """The facts of one copy.

    Times are UTC as `shared.host.clock.timestamp` writes them; sizes are bytes.

    `source_bytes` is what the VM's disks took on the host; `fingerprint` that of the VM before the
    export. `files` are those beside the `.ova` by suffix (of `names.SIDES`), `left_out` says in
    words what of the VM is in none of them. `pinned` is when an operator exempted the copy from
    retention, empty if nobody did. `refused` is why VirtualBox would not import the copy when it
    was made; its disks are whole all the same. `engine_reason` says why another engine than the
    wanted one made it. `frozen`: it was made of clones of the disks, and the VM could be used
    meanwhile. `not_paused` is why its VM was copied live, which was to be paused, and
    `paused_seconds` how long it stood still if it was, 0 if that is not known. `key` is what the VM
    was called in the state database, and `repository` which database that was: by them a database
    can be made anew; older copies do not have them. `taken_from` are the copies from which it took
    blocks over, the nearest first: the one before it, the one before that if that one took some
    over, and so on. `suspect` is the first of them that was found damaged, as long as this copy was
    not read in full since; empty: none. `index` is its index, where that serves the next copy or is
    needed to read this one.

    `parts` is what it is made of, if it took grains over that nobody read. Then `sha256` is empty
    until it was read in full for the first time, and compared with them; and `oldest_read` is when
    the oldest of what it took over was last read. `holds` are the VMs that run from it: the file
    has a pin besides, for programs that know only those. `screenshot` is that of a rehearsal, see
    `shown`. `extra` keeps the fields that this version does not know.
    """

    stamp: _Stamp
    claim: _Claim
    vm: str
    uuid: str
    node: str
    host: str
    virtualbox: str
    sha256: Sha256 | Literal[""]
    size: Count
    fingerprint: Mapping[str, Any]
    started: Time
    finished: Time
    duration_seconds: Number
    engine: str
    source_bytes: Count = 0
    verified: Verified | None = None
    rehearsed: Rehearsed | None = None
    screenshot: Screenshot | None = None
    files: Annotated[
        Mapping[Suffix, SideFile],
        FieldCheck(lambda files: set(files) <= set(SIDES), "of other files"),
    ] = field(default_factory=dict)
    left_out: Annotated[tuple[str, ...], FROM_JSON] = ()
    pinned: str = ""
    refused: str = ""
    engine_reason: str = ""
    frozen: bool = False
    not_paused: str = ""
    paused_seconds: Number = 0
    unread: Count = 0
    wire: Wire | None = None
    key: str = ""
    repository: str = ""
    taken_from: Annotated[tuple[_Stamp, ...], FROM_JSON] = ()
    suspect: _Stamp | Literal[""] = ""
    index: SideFile | None = None
    parts: Parts | None = None
    oldest_read: Time | Literal[""] = ""
    holds: Marks = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def damage(self) -> str:
        """What the last verification found wrong; empty if nothing, or if there was none."""
        return self.verified.result if self.verified and self.verified.result != "good" else ""

    @property
    def shown(self) -> Screenshot | None:
        """The screenshot of the last rehearsal; None if that has none.

        An older program notes rehearsals, and leaves the screenshot of the one before.
        """
        last, taken = self.rehearsed, self.screenshot
        return taken if last is not None and taken is not None and taken.time == last.time else None

    @property
    def moment(self) -> datetime:
        """When the copy was begun, UTC."""
        return parse_timestamp(self.started)

    @property
    def read_in_full(self) -> bool:
        """Whether every byte of it was read once at least, and was right."""
        return bool(self.sha256)

    @property
    def needed_files(self) -> Mapping[Suffix, SideFile]:
        """The files without which the `.ova` is no copy: its index as long as that is needed."""
        if self.read_in_full or self.index is None:
            return self.files
        return {**self.files, "index": self.index}

    @property
    def seal(self) -> str:
        """What stands for the SHA-256 as long as that is not known; empty if it is."""
        return "" if self.read_in_full or self.parts is None else self.parts.digest

    def render(self) -> bytes:
        """The file's text."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["files"] = {suffix: self.files[suffix] for suffix in SIDES if suffix in self.files}
        values["holds"] = [hold.to_json() for hold in self.holds]
        values["pinned"] = self.pinned or (_PIN_OF_HOLD if self.holds else "")
        extra = values.pop("extra")
        written = {name: value for name, value in values.items() if value or name not in _OPTIONAL}
        document = {"schema": _SCHEMA_OF_PARTS if self.parts else _SCHEMA, **written, **extra}
        text = json.dumps(document, ensure_ascii=False, indent=2, default=_plain)
        return f"{text}\n".encode("utf-8", "surrogatepass")

    def checksum_lines(self) -> bytes:
        """The text of `<stamp>.sha256`, for people and `sha256sum -c`; nothing is decided by it.

        It has a line for the `.ova` only if that was read in full.
        """
        digests: dict[Suffix, str] = {
            **({"ova": self.sha256} if self.read_in_full else {}),
            **{suffix: self.files[suffix].sha256 for suffix in SIDES if suffix in self.files},
        }
        return "".join(
            f"{digest}  {final_name(self.stamp, suffix)}\n" for suffix, digest in digests.items()
        ).encode()


def parse(data: bytes) -> Sidecar:
    """Parse a sidecar. Whatever the bytes are: raises `CopyError` that says what is wrong."""
    try:
        document = load(data, LIMIT_BYTES)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise CopyError("the sidecar is no JSON object")
    schema = document.get("schema")
    if schema not in (_SCHEMA, _SCHEMA_OF_PARTS):
        raise CopyError(
            f"the sidecar has schema {schema!r}; this program knows up to {_SCHEMA_OF_PARTS}",
            hint="update vmbackup on this host",
        )
    values = {name: value for name, value in document.items() if name != "schema"}
    if values.get("holds") and values.get("pinned") == _PIN_OF_HOLD:
        del values["pinned"]
    try:
        sidecar = Sidecar.from_json(values)
    except ValueError as error:
        raise CopyError(f"the sidecar is wrong: {error}") from None
    if (sidecar.parts is None) != (schema == _SCHEMA):
        raise CopyError("the sidecar is wrong: its schema does not fit to its parts")
    if not sidecar.read_in_full and (sidecar.parts is None or sidecar.index is None):
        raise CopyError("the sidecar is wrong: it has neither a digest nor parts and an index")
    return sidecar


def _plain(value: object) -> dict[str, Any]:
    """For the encoder: what is no value of JSON by itself."""
    return dict(value) if isinstance(value, Mapping) else asdict(value)  # type: ignore[call-overload]
