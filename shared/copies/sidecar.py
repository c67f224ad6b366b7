"""The sidecar of a copy, `<stamp>.json`: what the copy is of, how it was made, and the digest that it must have.

It is what makes an `.ova` a copy: without its sidecar a file never counts. It can be read without the state database, by people
and by a restore on a machine that knows nothing else.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from shared.clock import parse_timestamp
from shared.copies.files import NasFiles, read_file, write_file
from shared.copies.names import final_name, parse_stamp, partial_name
from shared.copies.reporting import reported
from shared.errors import CopyError

SCHEMA: Final = 1
#: No sidecar is longer; a file that is, is none.
LIMIT_BYTES: Final = 1 << 20

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Verified:
    """The last time that the copy was read and compared with its digests, at `time`: `result` is good, or says what is wrong."""

    time: str
    result: str = "good"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The facts of one copy. Times are UTC as `shared.clock.timestamp` writes them; sizes are bytes.

    `source_bytes` is what the VM's disks took on the host; `fingerprint` that of the VM before the export. `extra` keeps the
    fields that this version does not know.
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
        document |= {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("verified", "extra")}
        document["fingerprint"] = dict(self.fingerprint)
        if self.verified:
            document["verified"] = {"time": self.verified.time, "result": self.verified.result}
        return (json.dumps({**document, **self.extra}, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "surrogatepass")

    def checksum_line(self) -> bytes:
        """The text of `<stamp>.sha256`, for `sha256sum -c`. For people; nothing is decided by it."""
        return f"{self.sha256}  {final_name(self.stamp, 'ova')}\n".encode()


def parse(data: bytes) -> Sidecar:
    """Reads a sidecar. Raises `CopyError` that says what is wrong with it, whatever the bytes are."""
    try:
        document = json.loads(data.decode("utf-8", "surrogatepass")) if len(data) <= LIMIT_BYTES else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise CopyError("the sidecar is no JSON object")
    if document.get("schema") != SCHEMA:
        raise CopyError(
            f"the sidecar has schema {document.get('schema')!r}; this program knows {SCHEMA}", hint="update vmbackup on this host"
        )
    values = {name: _field(document, name, check) for name, check in _CHECKS.items()}
    known = {"schema", "verified", *_CHECKS}
    return Sidecar(**values, verified=_verified(document.get("verified")), extra={k: v for k, v in document.items() if k not in known})


def read(directory: Path, stamp: str) -> Sidecar:
    """The sidecar of a published copy. Raises `CopyError` if it is damaged or another copy's, `NasError` if it cannot be read."""
    name = final_name(stamp, "json")
    with reported(f"read {name}"):
        return read_named(directory, name, stamp)


def read_named(directory: Path, name: str, stamp: str) -> Sidecar:
    """The sidecar in the file `name`, which must be that of the copy `stamp`. Raises `CopyError`, or OSError as the system says it."""
    sidecar = parse(read_file(directory, name, LIMIT_BYTES))
    if sidecar.stamp != stamp:
        raise CopyError(f"{name} is the sidecar of another copy ({sidecar.stamp})")
    return sidecar


def replace(files: NasFiles, directory: Path, sidecar: Sidecar, claim: int) -> None:
    """Replaces the sidecar of a published copy, for instance after a verification; `claim` is the one that the caller holds.

    At every moment, and after a crash, the old or the new sidecar is there, whole. Raises `NasError`.
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
    if not (isinstance(value, dict) and _text(value.get("time")) and _text(value.get("result")) and value["result"]):
        raise CopyError("the sidecar's field verified is wrong")
    return Verified(value["time"], value["result"])


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
    "sha256": lambda value: bool(_SHA256.fullmatch(value)),
    "size": _count,
    "fingerprint": lambda value: isinstance(value, dict),
    "started": _moment,
    "finished": _moment,
    "duration_seconds": _duration,
    "engine": _text,
    "source_bytes": _count,
}
