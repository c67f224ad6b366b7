"""What the state database holds, and how one generation of it is written as text.

A generation is complete, immutable and self-checking: a header (who committed it, why, and the checksum of the generation
before), one JSON object a line for each node, session and VM, and the SHA-256 of everything above. Fields that this version
does not know are kept.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Final, Literal, Self

from shared.errors import DatabaseDamagedError, DatabaseVersionError
from shared.states import State

#: The database version that this program writes. A newer major version is refused, a newer minor one is read.
DATABASE_VERSION: Final = "1.1"
_MAGIC: Final = "vmbackup-state"
_SECTIONS: Final = ("nodes", "sessions", "vms")


@dataclass(frozen=True, slots=True)
class _Record:
    """A JSON object whose unknown fields survive being read and written."""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Builds the record; raises TypeError or ValueError when a field is missing or wrong."""
        known = {item.name for item in fields(cls)} - {"extra"}
        values = {name: value for name, value in document.items() if name in known}
        return cls(**values, extra={name: value for name, value in document.items() if name not in known})  # type: ignore[call-arg]

    def to_json(self) -> dict[str, Any]:
        """The record as plain values; fields that have their default are left out."""
        document: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "extra" or (item.default is not MISSING and value == item.default):
                continue
            document[item.name] = value.to_json() if isinstance(value, _Record) else value
        return {**document, **getattr(self, "extra", {})}


@dataclass(frozen=True, slots=True)
class Claim(_Record):
    """The right of one session to work on one VM. `number` only grows: it is the fencing number in the names of files."""

    session: str
    number: int
    purpose: Literal["backup", "archive", "activate", "publish", "power", "verify", "pin", "prune"]
    since: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Copy(_Record):
    """A copy that was verified: published, or about to be. `fingerprint` is that of the VM which it is a copy of."""

    stamp: str
    claim: int
    size: int
    sha256: str
    finished: str
    fingerprint: Mapping[str, str]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Power(_Record):
    """What a backup does to a VM that must be undone: committed before the VM is touched, taken back when it is as it was found.

    `found` is VirtualBox's word for the power state to return to. The snapshot and the clone of the live method are called `tag`.
    """

    method: Literal["savestate", "shutdown", "live"]
    found: str
    claim: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """The name of whatever the backup makes in VirtualBox: unique, because claim numbers are."""
        return f"vmbackup-{self.claim}"


@dataclass(frozen=True, slots=True)
class VmRecord(_Record):
    """All that is known of one VM. Times are for display; order comes from claim numbers."""

    key: str
    name: str
    uuid: str
    node: str
    directory: str
    status: State
    found: str
    #: The newest good copy.
    last_copy: Copy | None = None
    #: Set while a verified copy is being put in place: whoever finds it without a claim finishes that.
    publishing: Copy | None = None
    claim: Claim | None = None
    #: An archive or activate whose files may still have to be moved.
    moving: Literal["archive", "activate"] | None = None
    #: Set while a backup has changed its power state or made a snapshot of it: whoever finds it without a claim, on its host, undoes that.
    power: Power | None = None
    failures: int = 0
    last_error: str = ""
    last_error_at: str = ""
    #: Claim number of the last attempt that did not succeed: such a VM goes to the back of the queue.
    last_failed_claim: int = 0
    #: A session that worked on it died: its partial files may still have to be removed.
    leftovers: bool = False
    missing_since: str | None = None
    #: When that of its good copies whose last full reading is longest ago was read. Empty: look.
    verified: str = ""
    #: Stamps of copies that were found damaged and are still there.
    damaged: tuple[str, ...] = ()
    #: Why a VM that is BACKUP_NECESSARY was not taken at the last tick, though nothing is wrong with it.
    waiting: str = ""
    #: Another host that lists a VM of this UUID while `node` has not given it up.
    also_on: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """See `_Record.from_json`."""
        values = dict(document)
        values["status"] = State(values["status"])
        values["damaged"] = tuple(values.get("damaged", ()))
        for name, kind in (("last_copy", Copy), ("publishing", Copy), ("claim", Claim), ("power", Power)):
            if values.get(name) is not None:
                values[name] = kind.from_json(values[name])
        known = {item.name for item in fields(cls)} - {"extra"}
        unknown = {name: value for name, value in values.items() if name not in known}
        return cls(**{name: value for name, value in values.items() if name in known}, extra=unknown)


@dataclass(frozen=True, slots=True)
class NodeRecord(_Record):
    """A host name and the machine that owns it: two machines of one name are refused."""

    name: str
    machine: str
    hostname: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionRecord(_Record):
    """One process that committed something.

    `sequence` is its last committed transaction and `generation` where that was: reading it back is how a process learns whether
    a commit took place. A live session may hold claims; an ended or expired one stays as a tombstone for a while.
    """

    id: str
    sequence: int
    generation: int
    state: Literal["live", "ended", "expired"]
    node: str
    worker: str = ""
    since: str = ""
    hostname: str = ""
    machine: str = ""
    boot: str = ""
    space: str = ""
    pid: int = 0
    started: float = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contents:
    """What transactions change."""

    claims_granted: int = 0
    nodes: Mapping[str, NodeRecord] = field(default_factory=dict)
    sessions: Mapping[str, SessionRecord] = field(default_factory=dict)
    vms: Mapping[str, VmRecord] = field(default_factory=dict)

    def with_vm(self, record: VmRecord) -> "Contents":
        """With `record` added or replaced."""
        return replace(self, vms={**self.vms, record.key: record})

    def with_session(self, record: SessionRecord) -> "Contents":
        """With `record` added or replaced."""
        return replace(self, sessions={**self.sessions, record.id: record})

    def with_node(self, record: NodeRecord) -> "Contents":
        """With `record` added or replaced."""
        return replace(self, nodes={**self.nodes, record.name: record})


@dataclass(frozen=True, slots=True)
class Header:
    """Where a generation stands in the chain, who committed it and why."""

    repository: str
    generation: int
    #: Checksum of the generation before; 64 zeros for the first.
    previous: str
    session: str
    sequence: int
    node: str
    committed: str
    reason: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One generation."""

    header: Header
    contents: Contents
    checksum: str

    @property
    def generation(self) -> int:
        """Its number."""
        return self.header.generation


def encode(header: Header, contents: Contents) -> bytes:
    """The text of a generation. The same input gives the same bytes."""
    lines = [
        f"{_MAGIC} {DATABASE_VERSION}",
        f"repository {header.repository}",
        f"generation {header.generation}",
        f"previous {header.previous}",
        "commit " + _dump({name: getattr(header, name) for name in ("session", "sequence", "node", "committed", "reason")}),
        f"claims {contents.claims_granted}",
    ]
    for section in _SECTIONS:
        rows = getattr(contents, section)
        lines.append(f"{section} {len(rows)}")
        lines += [_dump(rows[name].to_json()) for name in sorted(rows)]
    body = "\n".join([*lines, "end"]) + "\n"
    data = body.encode("utf-8", "surrogatepass")
    return data + f"sha256 {hashlib.sha256(data).hexdigest()}\n".encode()


def decode(data: bytes, number: int) -> Snapshot:
    """Reads generation `number`. Raises `DatabaseDamagedError`, or `DatabaseVersionError` if a newer program wrote it."""
    body, separator, trailer = data.rpartition(b"sha256 ")
    checksum = hashlib.sha256(body).hexdigest()
    if not separator or trailer != f"{checksum}\n".encode():
        raise _damaged(number, f"its checksum is wrong ({len(data)} bytes)")
    try:
        lines = iter(body.decode("utf-8", "surrogatepass").split("\n"))
        _check_version(next(lines))
        header = _decode_header(lines)
        if header.generation != number:
            raise _damaged(number, f"it says that it is generation {header.generation}")
        granted = int(_value(lines, "claims"))
        nodes = {row["name"]: NodeRecord.from_json(row) for row in _rows(lines, "nodes")}
        sessions = {row["id"]: SessionRecord.from_json(row) for row in _rows(lines, "sessions")}
        vms = {row["key"]: VmRecord.from_json(row) for row in _rows(lines, "vms")}
        if next(lines) != "end":
            raise _damaged(number, "its end is missing")
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError) as error:
        raise _damaged(number, f"it cannot be read ({type(error).__name__}: {error})") from None
    return Snapshot(header, Contents(granted, nodes, sessions, vms), checksum)


def _check_version(line: str) -> None:
    magic, _, version = line.partition(" ")
    known = int(DATABASE_VERSION.split(".")[0])
    if magic != _MAGIC or not re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", version) or int(version.split(".")[0]) < known:
        raise ValueError(f"starts with {line[:40]!r}")
    if int(version.split(".")[0]) > known:
        raise DatabaseVersionError(
            f"the state database is of version {version}; this program knows up to {DATABASE_VERSION}", hint="update vmbackup on this host"
        )


def _decode_header(lines: Iterator[str]) -> Header:
    repository, generation, previous = (_value(lines, name) for name in ("repository", "generation", "previous"))
    commit = json.loads(_value(lines, "commit"))
    names = ("session", "sequence", "node", "committed", "reason")
    return Header(repository, int(generation), previous, *(commit[name] for name in names))


def _value(lines: Iterator[str], name: str) -> str:
    found, _, value = next(lines).partition(" ")
    if found != name:
        raise ValueError(f"{name!r} expected, {found[:40]!r} found")
    return value


def _rows(lines: Iterator[str], section: str) -> list[dict[str, Any]]:
    return [json.loads(next(lines)) for _ in range(int(_value(lines, section)))]


def _dump(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _damaged(number: int, what: str) -> DatabaseDamagedError:
    return DatabaseDamagedError(
        f"generation {number} of the state database is damaged: {what}",
        hint="`vmbackup-admin statedb check` shows what is left and how to go on; nothing has been changed",
    )
