"""What the state database holds: records of nodes, sessions and VMs, each a JSON object.

Fields that this version does not know are kept, so that hosts of different versions can share a
database.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Final, Literal, Self

from shared.state.formats import NEWEST
from shared.state.states import State


@dataclass(frozen=True, slots=True)
class _Record:
    """A JSON object whose unknown fields survive being read and written."""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Builds the record; raises TypeError or ValueError when a field is missing or wrong."""
        known = {item.name for item in fields(cls)} - {"extra"}
        decoded = cls._decoded(document)
        values = {name: value for name, value in decoded.items() if name in known}
        return cls(
            **values, extra={name: value for name, value in decoded.items() if name not in known}
        )  # type: ignore[call-arg]

    @classmethod
    def _decoded(cls, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values of a JSON object as those of the fields."""
        return document

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
    """The right of one session to work on one VM.

    `number` only grows: it is the fencing number in the names of files.
    """

    session: str
    number: int
    purpose: Literal["backup", "archive", "activate", "publish", "power", "verify", "pin", "prune"]
    since: str
    #: A backup has stopped the VM, or is about to: that it was for nothing is counted if the claim
    #: ends without a copy.
    outage: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Copy(_Record):
    """A copy that was verified: published, or about to be.

    `fingerprint` is that of the VM which it is a copy of.
    """

    stamp: str
    claim: int
    size: int
    sha256: str
    finished: str
    fingerprint: Mapping[str, str]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Power(_Record):
    """What a backup does to a VM that must be undone.

    Committed before the VM is touched, taken back when it is as it was found.

    `found` is VirtualBox's word for the power state to return to. The live method makes a snapshot
    and a clone that are both called `tag`, and a folder of that name for the clone; `clone` and
    `snapshot` are their UUIDs.
    """

    method: Literal["savestate", "shutdown", "live"]
    found: str
    claim: int
    #: 128 random bits in hexadecimal digits. Empty: written by a release that called everything
    #: after the claim.
    token: str = ""
    clone: str = ""
    #: Empty until it was made.
    snapshot: str = ""
    folder: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """The name of whatever the backup makes in VirtualBox."""
        return f"vmbackup-{self.token or self.claim}"


@dataclass(frozen=True, slots=True)
class Queued(_Record):
    """A place in the line of VMs that wait for a place on the NAS.

    `session` waits there for it now; empty: none does.
    """

    number: int
    session: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restoration(_Record):
    """A VM that was made of a copy.

    The copy's stamp, the host and name of the new VM, its UUID there, and when.
    """

    stamp: str
    node: str
    name: str
    uuid: str
    when: str
    extra: Mapping[str, Any] = field(default_factory=dict)


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
    #: When the last backup that succeeded was finished, whichever copy counts as the newest since
    #: then.
    backed_up: str = ""
    #: Set while a verified copy is being put in place: whoever finds it without a claim finishes
    #: that.
    publishing: Copy | None = None
    claim: Claim | None = None
    #: An archive or activate whose files may still have to be moved.
    moving: Literal["archive", "activate"] | None = None
    #: Set while a backup has changed its power state or made a snapshot of it: whoever finds it
    #: without a claim, on its host, undoes that.
    power: Power | None = None
    failures: int = 0
    last_error: str = ""
    last_error_at: str = ""
    #: Claim number of the last attempt that did not succeed: such a VM goes to the back of the
    #: queue.
    last_failed_claim: int = 0
    #: How many backups in a row have stopped the VM and published nothing, and before which time
    #: none may stop it again.
    outages_failed: int = 0
    next_outage: str = ""
    #: A session that worked on it died: its partial files may still have to be removed.
    leftovers: bool = False
    missing_since: str | None = None
    #: When that of its good copies whose last full reading is longest ago was read. Empty: look.
    verified: str = ""
    #: Stamps of copies that were found damaged and are still there.
    damaged: tuple[str, ...] = ()
    #: Stamps of good copies of which it is disputed which is newer: none of them is removed
    #: automatically.
    order_unknown: tuple[str, ...] = ()
    #: Why a VM that is BACKUP_NECESSARY was not taken at the last tick, though nothing is wrong
    #: with it.
    waiting: str = ""
    #: Where it is in the line of those for which there was no place on the NAS.
    queued: Queued | None = None
    #: The last time that a VM was made of one of its copies.
    restored: Restoration | None = None
    #: Another host that lists a VM of this UUID while `node` has not given it up.
    also_on: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def _decoded(cls, document: Mapping[str, Any]) -> Mapping[str, Any]:
        values = {
            **document,
            "status": State(document["status"]),
            "damaged": tuple(document.get("damaged", ())),
            "order_unknown": tuple(document.get("order_unknown", ())),
        }
        parts = {
            name: kind.from_json(document[name])
            for name, kind in _PARTS.items()
            if document.get(name) is not None
        }
        return {**values, **parts}


#: Fields of a VM's record that are records themselves.
_PARTS: Final[Mapping[str, type[_Record]]] = {
    "last_copy": Copy,
    "publishing": Copy,
    "claim": Claim,
    "power": Power,
    "queued": Queued,
    "restored": Restoration,
}


@dataclass(frozen=True, slots=True)
class NodeRecord(_Record):
    """A host name, and the machine and user that own it.

    Two machines of one name are refused, and two users by `vmfind`.
    """

    name: str
    machine: str
    hostname: str = ""
    #: The number of the user whose VMs these are. Empty: nobody has said so yet, the first whose
    #: `vmfind` comes does.
    user: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionRecord(_Record):
    """One process that committed something.

    `sequence` is its last committed transaction and `generation` where that was: reading it back is
    how a process learns whether a commit took place. A live session may hold claims; an ended or
    expired one stays as a tombstone for a while.
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
    #: When its process started, by the kernel's count. Older programs do not know it, and compare
    #: `started`.
    born: str = ""
    #: The version of its program. Empty: 0.1, which knows the format 1.1 alone.
    program: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contents:
    """What transactions change. `format` is that in which they are written."""

    claims_granted: int = 0
    nodes: Mapping[str, NodeRecord] = field(default_factory=dict)
    sessions: Mapping[str, SessionRecord] = field(default_factory=dict)
    vms: Mapping[str, VmRecord] = field(default_factory=dict)
    format: str = NEWEST

    def with_vm(self, record: VmRecord) -> "Contents":
        """With `record` added or replaced."""
        return replace(self, vms={**self.vms, record.key: record})

    def with_session(self, record: SessionRecord) -> "Contents":
        """With `record` added or replaced."""
        return replace(self, sessions={**self.sessions, record.id: record})

    def with_node(self, record: NodeRecord) -> "Contents":
        """With `record` added or replaced."""
        return replace(self, nodes={**self.nodes, record.name: record})
