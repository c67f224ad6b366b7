"""The record of a VM in the state database, a JSON object, and what stands in it.

Those of hosts and their processes are in `host_records`.

Fields that this version does not know are kept, so that hosts of different versions can share a
database.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from shared.host.document_fields import FROM_JSON, Count, PlainName
from shared.host.documents import Document
from shared.state.hold import Hold
from shared.state.record_fields import CloneFolder, DirectoryName, Texts, Token, Uuid
from shared.state.states import State


@dataclass(frozen=True, slots=True)
class Claim(Document):
    """The right of one session to work on one VM.

    `number` only grows: it is the fencing number in the names of files.
    """

    session: str
    number: Count
    purpose: Literal["backup", "archive", "activate", "publish", "power", "verify", "pin", "prune"]
    since: str
    #: A backup has stopped the VM, or is about to: that it was for nothing is counted if the claim
    #: ends without a copy.
    outage: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OtherEngine(Document):
    """That VBoxManage made a copy because the parallel engine could not: `reason` says why not.

    `copies` is how many in a row were made so, this one included, as far as is known.
    """

    reason: str
    copies: Count = 1
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CopyRecord(Document):
    """A copy that was verified: published, or about to be.

    `fingerprint` is that of the VM which it is a copy of. `sha256` is empty as long as the copy was
    not read in full; then `seal` is the digest of what it is made of. `other_engine`: it was not
    made by the engine that was wanted. `not_paused`: why its VM was copied live, which was to be
    paused.
    """

    stamp: PlainName
    claim: Count
    size: Count
    sha256: str
    finished: str
    fingerprint: Mapping[str, str]
    seal: str = ""
    other_engine: OtherEngine | None = None
    not_paused: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Power(Document):
    """What a backup does to a VM that must be undone.

    Committed before the VM is touched, taken back when it is as it was found. `found` is
    VirtualBox's word for the power state to return to. The live method makes a snapshot and a clone
    that are both called `tag`, and a folder of that name for the clone; `clone` and `snapshot` are
    their UUIDs. Pausing makes no snapshot.
    """

    method: Literal["savestate", "shutdown", "live", "pause"]
    found: str
    claim: Count
    #: 128 random bits in hexadecimal digits. Empty: written by a release that called everything
    #: after the claim.
    token: Token = ""
    clone: Uuid = ""
    #: Empty until it was made.
    snapshot: Uuid = ""
    folder: CloneFolder = ""
    #: When the VM was touched, and the host that did. Empty: noted by an older release.
    since: str = ""
    node: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """The name of whatever the backup makes in VirtualBox."""
        return f"vmbackup-{self.token or self.claim}"


@dataclass(frozen=True, slots=True)
class Queued(Document):
    """A VM's place in the queue for a slot: the right to export to the NAS.

    `session` waits for it now; empty: none does.
    """

    number: Count
    session: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restoration(Document):
    """A VM that was restored from the copy `stamp`: its host, name and UUID, and when."""

    stamp: str
    node: str
    name: str
    uuid: str
    when: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RehearsalRecord(Document):
    """The last time that a copy of a VM, `stamp`, was restored on trial on the host `node`.

    `result` is good, or says what went wrong.
    """

    stamp: str
    time: str
    node: str
    result: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Told(Document):
    """What one target was told of an event, and who is telling it. Times are of the NAS's clock."""

    #: Who tells it now; the claim stands as long as that session lives. Empty: nobody does.
    session: str = ""
    #: When it was last told that the event stands, and how grave that was. Empty: not yet.
    told: str = ""
    level: str = ""
    #: How often in a row the target took nothing, and when it last did not, by the host that tried.
    failures: Count = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EventRecord(Document):
    """Something that people are to be told of, until they know that it is over.

    `level` is a word like "critical". `begun` and `ended` (empty: it stands) are by the NAS's
    clock. `node` is the host that found it out.
    """

    level: str
    begun: str
    node: str
    ended: str = ""
    #: By the names of targets.
    targets: Mapping[str, Told] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VmRecord(Document):
    """All that is known of one VM. Times are for display; order comes from claim numbers."""

    key: str
    name: str
    uuid: str
    node: str
    directory: DirectoryName
    status: Annotated[State, FROM_JSON]
    found: str
    #: The newest good copy.
    last_copy: CopyRecord | None = None
    #: When the last backup that succeeded was finished, whichever copy counts as the newest since
    #: then.
    backed_up: str = ""
    #: Set while a verified copy is being put in place: whoever finds it without a claim finishes
    #: that.
    publishing: CopyRecord | None = None
    claim: Claim | None = None
    #: An archive or activate whose files may still have to be moved.
    moving: Literal["archive", "activate"] | None = None
    #: When that was begun. Empty: an older release did.
    moving_since: str = ""
    #: Set while a backup has changed its power state or made a snapshot of it: whoever finds it
    #: without a claim, on its host, undoes that.
    power: Power | None = None
    #: A `power` that nobody will undo: its host was recovered by hand, or has this VM no more, or
    #: has not noted that it stopped it. What it tells of may still be there. The host that lists
    #: the VM says so, and takes this back: of one that was stopped, when it runs.
    power_left: Power | None = None
    failures: Count = 0
    last_error: str = ""
    last_error_at: str = ""
    #: Claim number of the last attempt that did not succeed: such a VM goes to the back of the
    #: queue.
    last_failed_claim: Count = 0
    #: How many backups in a row have stopped the VM and published nothing, and before which time
    #: none may stop it again.
    outages_failed: Count = 0
    next_outage: str = ""
    #: A session that worked on it died: its partial files may still have to be removed.
    leftovers: bool = False
    #: Since when. Empty: an older release noted it.
    leftovers_since: str = ""
    missing_since: str | None = None
    #: When that of its good copies whose last full reading is longest ago was read. Empty: look.
    verified: str = ""
    #: The last rehearsal of one of its copies.
    rehearsed: RehearsalRecord | None = None
    #: Stamps of copies that were found damaged and are still there.
    damaged: Texts = ()
    #: Stamps of good copies of which it is disputed which is newer: none of them is removed
    #: automatically.
    order_unknown: Texts = ()
    #: Why a VM that is BACKUP_NECESSARY was not taken at the last tick, though nothing is wrong
    #: with it.
    waiting: str = ""
    #: Its place in the queue of those for which there was no slot.
    queued: Queued | None = None
    #: The last time that a VM was made of one of its copies.
    restored: Restoration | None = None
    #: The session that works on copies of which no record told: this record goes with it. Empty: an
    #: ordinary one.
    taken_in_by: str = ""
    #: Another host that lists a VM of this UUID while `node` has not given it up.
    also_on: str | None = None
    #: What holds copies of it: a VM runs from them, and they stay where they are.
    holds: Annotated[tuple[Hold, ...], FROM_JSON] = ()
    #: The groups of VirtualBox that it is in, and what its extra data say of backups.
    groups: Texts = ()
    wish: str = ""
    #: The rule by which its host leaves it out of backups. Empty: it does not.
    left_out: str = ""
    #: What is told of it, by kind.
    events: Mapping[str, EventRecord] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
