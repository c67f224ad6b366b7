"""The sidecar of a copy, `<stamp>.json`.

What the copy is of, how it was made, and the digest that it must have.

It is what makes an `.ova` a copy: without its sidecar a file never counts. It can be read without
the state database, by people and by a restore on a machine that knows nothing else.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from shared.copies.files import NasFiles, write_file
from shared.copies.names import SIDES, Suffix, final_name, parse_stamp, partial_name
from shared.host.clock import parse_timestamp
from shared.host.errors import CopyError
from shared.nas.errors import reported
from shared.nas.reading import read_file

SCHEMA: Final = 1
#: No sidecar is longer; a file that is, is none.
LIMIT_BYTES: Final = 1 << 20

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
#: Fields that `_CHECKS` does not have, because older sidecars lack them.
_OPTIONAL: Final = frozenset(
    {"verified", "rehearsed", "files", "left_out", "pinned", "engine_reason", "wire", "extra"}
)


@dataclass(frozen=True, slots=True)
class Verified:
    """The last time that the copy was read and compared with its digests, at `time`.

    `result` is good, or says what is wrong.
    """

    time: str
    result: str = "good"


@dataclass(frozen=True, slots=True)
class SideFile:
    """A file beside the `.ova` that belongs to the copy: its bytes and their digest."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Wire:
    """How the bytes of the `.ova` came to the NAS.

    `sent`, or `copied` there from the copy before. `reason`: why none were copied.
    """

    sent: int
    copied: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """The last time that the copy was restored on trial, at `time` on the host `node`.

    `result` is good, or says what went wrong.

    `observed` says what was seen, in words; `booted` whether it was started at all.
    """

    time: str
    node: str
    result: str
    observed: str
    booted: bool


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The facts of one copy.

    Times are UTC as `shared.host.clock.timestamp` writes them; sizes are bytes.

    `source_bytes` is what the VM's disks took on the host; `fingerprint` that of the VM before the
    export. `files` are those beside the `.ova` by suffix (of `names.SIDES`), `left_out` says in
    words what of the VM is in none of them. `pinned` is when an operator exempted the copy from
    retention, empty if nobody did. `engine_reason` says why another engine than the wanted one made
    it. `extra` keeps the fields that this version does not know.
    """

    stamp: str
    claim: int
    vm: str
    uuid: str
    node: str
    host: str
    virtualbox: str
    sha256: str
    size: int
    fingerprint: Mapping[str, Any]
    started: str
    finished: str
    duration_seconds: float
    engine: str
    source_bytes: int = 0
    verified: Verified | None = None
    rehearsed: Rehearsed | None = None
    files: Mapping[Suffix, SideFile] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    pinned: str = ""
    engine_reason: str = ""
    wire: Wire | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def damage(self) -> str:
        """What the last verification found wrong; empty if nothing, or if there was none."""
        return self.verified.result if self.verified and self.verified.result != "good" else ""

    @property
    def moment(self) -> datetime:
        """When the copy was begun, UTC."""
        return parse_timestamp(self.started)

    def render(self) -> bytes:
        """The file's text."""
        document: dict[str, Any] = {"schema": SCHEMA}
        document |= {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.name not in _OPTIONAL
        }
        document["fingerprint"] = dict(self.fingerprint)
        if self.verified:
            document["verified"] = asdict(self.verified)
        if self.rehearsed:
            document["rehearsed"] = asdict(self.rehearsed)
        document["files"] = {
            suffix: asdict(self.files[suffix]) for suffix in SIDES if suffix in self.files
        }
        document["left_out"] = list(self.left_out)
        if self.pinned:
            document["pinned"] = self.pinned
        if self.engine_reason:
            document["engine_reason"] = self.engine_reason
        if self.wire:
            document["wire"] = asdict(self.wire)
        return (json.dumps({**document, **self.extra}, ensure_ascii=False, indent=2) + "\n").encode(
            "utf-8", "surrogatepass"
        )

    def checksum_lines(self) -> bytes:
        """The text of `<stamp>.sha256`, for `sha256sum -c`. For people; nothing is decided by it."""
        digests: dict[Suffix, str] = {
            "ova": self.sha256,
            **{suffix: self.files[suffix].sha256 for suffix in SIDES if suffix in self.files},
        }
        return "".join(
            f"{digest}  {final_name(self.stamp, suffix)}\n" for suffix, digest in digests.items()
        ).encode()


def parse(data: bytes) -> Sidecar:
    """Reads a sidecar. Raises `CopyError` that says what is wrong with it, whatever the bytes are."""
    try:
        document = (
            json.loads(data.decode("utf-8", "surrogatepass")) if len(data) <= LIMIT_BYTES else None
        )
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise CopyError("the sidecar is no JSON object")
    if document.get("schema") != SCHEMA:
        raise CopyError(
            f"the sidecar has schema {document.get('schema')!r}; this program knows {SCHEMA}",
            hint="update vmbackup on this host",
        )
    values = {name: _field(document, name, check) for name, check in _CHECKS.items()}
    known = {"schema", *_OPTIONAL, *_CHECKS} - {"extra"}
    return Sidecar(
        **values,
        verified=_verified(document.get("verified")),
        rehearsed=_rehearsed(document.get("rehearsed")),
        files=_files(document.get("files", {})),
        left_out=_left_out(document.get("left_out", [])),
        pinned=_words(document, "pinned"),
        engine_reason=_words(document, "engine_reason"),
        wire=_wire(document.get("wire")),
        extra={name: value for name, value in document.items() if name not in known},
    )


def read(directory: Path, stamp: str) -> Sidecar:
    """The sidecar of a published copy.

    Raises `CopyError` if it is damaged or another copy's, `NasError` if it cannot be read.
    """
    name = final_name(stamp, "json")
    with reported(f"read {name}"):
        return read_named(directory, name, stamp)


def read_named(directory: Path, name: str, stamp: str) -> Sidecar:
    """The sidecar in the file `name`, which must be that of the copy `stamp`.

    Raises `CopyError`, or OSError as the system says it.
    """
    sidecar = parse(read_file(directory / name, LIMIT_BYTES, follow=False))
    if sidecar.stamp != stamp:
        raise CopyError(f"{name} is the sidecar of another copy ({sidecar.stamp})")
    return sidecar


def replace(files: NasFiles, directory: Path, sidecar: Sidecar, claim: int) -> None:
    """Replaces the sidecar of a published copy, for instance after a verification.

    `claim` is the one that the caller holds.

    At every moment, and after a crash, the old or the new sidecar is there, whole. Raises
    `NasError`.
    """
    temporary = partial_name(sidecar.stamp, claim, "json")
    with reported(f"write the sidecar of {sidecar.stamp}"):
        files.remove(directory, temporary)
        write_file(files, directory, temporary, sidecar.render())
        files.rename(directory, temporary, final_name(sidecar.stamp, "json"))
        files.sync_directory(directory)


def _field(document: Mapping[str, Any], name: str, check: Callable[[Any], bool]) -> Any:  # noqa: ANN401 - the type belongs to the field
    value = document.get(name, 0 if name == "source_bytes" else None)
    try:
        good = check(value)
    except (ValueError, TypeError, OverflowError):
        good = False
    if not good:
        raise CopyError(f"the sidecar's field {name} is missing or wrong")
    return value


def _verified(value: object) -> Verified | None:
    if value is None:
        return None
    if not (
        isinstance(value, dict)
        and _text(value.get("time"))
        and _text(value.get("result"))
        and value["result"]
    ):
        raise CopyError("the sidecar's field verified is wrong")
    return Verified(value["time"], value["result"])


def _rehearsed(value: object) -> Rehearsed | None:
    if value is None:
        return None
    names = ("time", "node", "result", "observed")
    if not (
        isinstance(value, dict)
        and all(_text(value.get(name)) for name in names)
        and isinstance(value.get("booted"), bool)
    ):
        raise CopyError("the sidecar's field rehearsed is wrong")
    return Rehearsed(
        value["time"], value["node"], value["result"], value["observed"], value["booted"]
    )


def _files(value: object) -> dict[Suffix, SideFile]:
    if not isinstance(value, dict) or set(value) - set(SIDES):
        raise CopyError("the sidecar's field files is wrong")
    return {suffix: _side_file(value[suffix]) for suffix in SIDES if suffix in value}


def _side_file(value: object) -> SideFile:
    if (
        isinstance(value, dict)
        and value.keys() == {"size", "sha256"}
        and _count(value["size"])
        and _digest(value["sha256"])
    ):
        return SideFile(value["size"], value["sha256"])
    raise CopyError("the sidecar's field files is wrong")


def _left_out(value: object) -> tuple[str, ...]:
    if not (isinstance(value, list) and all(_text(item) for item in value)):
        raise CopyError("the sidecar's field left_out is wrong")
    return tuple(value)


def _words(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name, "")
    if not isinstance(value, str):
        raise CopyError(f"the sidecar's field {name} is wrong")
    return value


def _wire(value: object) -> Wire | None:
    if value is None:
        return None
    if not (
        isinstance(value, dict)
        and _count(value.get("sent"))
        and _count(value.get("copied"))
        and _text(value.get("reason"))
    ):
        raise CopyError("the sidecar's field wire is wrong")
    return Wire(value["sent"], value["copied"], value["reason"])


def _digest(value: object) -> bool:
    return isinstance(value, str) and bool(_SHA256.fullmatch(value))


def _text(value: object) -> bool:
    return isinstance(value, str)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12


def _moment(value: str) -> bool:
    return bool(parse_timestamp(value))


_CHECKS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "stamp": lambda value: bool(parse_stamp(value)),
    "claim": lambda value: _count(value) and value > 0,
    "vm": _text,
    "uuid": _text,
    "node": _text,
    "host": _text,
    "virtualbox": _text,
    "sha256": _digest,
    "size": _count,
    "fingerprint": lambda value: isinstance(value, dict),
    "started": _moment,
    "finished": _moment,
    "duration_seconds": _duration,
    "engine": _text,
    "source_bytes": _count,
}
