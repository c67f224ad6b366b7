"""What was found of a VM's copies on the NAS, taken over into its record. Pure."""

from dataclasses import dataclass, replace

from shared.state.contents import Contents
from shared.state.hold import Hold, merged
from shared.state.records import Claim, CopyRecord, RehearsalRecord, Restoration, VmRecord
from shared.state.rules import claims
from shared.state.states import Event, allowed, move


@dataclass(frozen=True, slots=True)
class FoundCopies:
    """A VM's copies as they were found in its directories under a claim.

    `newest` is the newest good one, `verified` the oldest last verification. `good` are the stamps
    of all good ones where they belong, `order_unknown` of those of which it is disputed which is
    newer. `holds` are those in the sidecars, `rehearsed` is the last rehearsal that is known, also
    of a copy that is gone.
    """

    newest: CopyRecord | None
    damaged: tuple[str, ...]
    verified: str
    good: frozenset[str] = frozenset()
    order_unknown: tuple[str, ...] = ()
    holds: tuple[Hold, ...] = ()
    rehearsed: RehearsalRecord | None = None

    def lacks(self, known: CopyRecord | None) -> bool:
        """Whether `known`, which counted as the newest good copy, is none any more.

        Numbers say nothing: the copy itself must be there.
        """
        return (
            known is not None
            and known.stamp not in self.good
            and not (self.newest and self.newest.stamp == known.stamp)
        )


def record(contents: Contents, key: str, own: Claim, found: FoundCopies) -> Contents:
    """Writes to the record which copies were found, and releases the claim.

    If what counted as the newest good copy is not one any more, the VM has to be backed up again;
    an archived one stays archived.
    """
    record = claims.held(contents, key, own)
    lost = found.lacks(record.last_copy)
    status = (
        move(record.status, Event.COPY_DAMAGED)
        if lost and allowed(record.status, Event.COPY_DAMAGED)
        else record.status
    )
    backed_up = "" if lost else record.backed_up
    return contents.with_vm(
        replace(with_copies(record, found), claim=None, status=status, backed_up=backed_up)
    )


def with_copies(record: VmRecord, found: FoundCopies) -> VmRecord:
    """The record with what was found of the VM's copies."""
    known, newest = record.last_copy, found.newest
    last_copy = newest
    if known and newest and known.stamp == newest.stamp:
        was_read = known.seal and not newest.seal
        last_copy = replace(known, sha256=newest.sha256, seal="") if was_read else known
    return replace(
        record,
        last_copy=last_copy,
        damaged=found.damaged,
        verified=found.verified,
        order_unknown=found.order_unknown,
        holds=merged(record.holds, found.holds),
        rehearsed=found.rehearsed,
    )


def restored(contents: Contents, key: str, what: Restoration) -> Contents:
    """Notes that a VM was made of a copy: for the log, whoever holds the VM.

    Changes nothing if the VM was forgotten meanwhile.
    """
    record = contents.vms.get(key)
    return contents if record is None else contents.with_vm(replace(record, restored=what))


def not_restored(contents: Contents, key: str, stamp: str, uuid: str) -> Contents:
    """Notes that a VM that was taken back to a copy in place has what it had before again.

    Changes nothing if the VM was forgotten meanwhile, or restored in another way since.
    """
    record = contents.vms.get(key)
    was = record.restored if record is not None else None
    if record is None or was is None or (was.stamp, was.uuid) != (stamp, uuid):
        return contents
    return contents.with_vm(replace(record, restored=None))
