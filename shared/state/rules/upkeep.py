"""What transactions do to VMs and their copies besides backups.

Verify, restore, archive, activate, forget. Pure, like `changes`.
"""

from dataclasses import dataclass, replace

from shared.host.errors import IllegalMoveError
from shared.state.records import Claim, Contents, Copy, Restoration, VmRecord
from shared.state.rules import changes
from shared.state.states import FORGETTABLE, Event, State, allowed, move


@dataclass(frozen=True, slots=True)
class FoundCopies:
    """A VM's copies as they were found in its directories under a claim.

    `newest` is the newest good one, `verified` the oldest last verification. `good` are the stamps
    of all good ones where they belong, `order_unknown` of those of which it is disputed which is
    newer.
    """

    newest: Copy | None
    damaged: tuple[str, ...]
    verified: str
    good: frozenset[str] = frozenset()
    order_unknown: tuple[str, ...] = ()

    def lacks(self, known: Copy | None) -> bool:
        """Whether `known`, which counted as the newest good copy, is none any more.

        Numbers say nothing: the copy itself must be there.
        """
        return (
            known is not None
            and known.stamp not in self.good
            and not (self.newest and self.newest.stamp == known.stamp)
        )


def record_copies(contents: Contents, key: str, own: Claim, found: FoundCopies) -> Contents:
    """Writes to the record which copies were found, and releases the claim.

    If what counted as the newest good copy is not one any more, the VM has to be backed up again;
    an archived one stays archived.
    """
    record = changes.held(contents, key, own)
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
    last_copy = known if known and newest and known.stamp == newest.stamp else newest
    return replace(
        record,
        last_copy=last_copy,
        damaged=found.damaged,
        verified=found.verified,
        order_unknown=found.order_unknown,
    )


def restored(contents: Contents, key: str, what: Restoration) -> Contents:
    """Notes that a VM was made of a copy: for the log, whoever holds the VM.

    Nothing if the VM was forgotten meanwhile.
    """
    record = contents.vms.get(key)
    return contents if record is None else contents.with_vm(replace(record, restored=what))


def archive(contents: Contents, key: str, session: str, when: str, floor: int = 0) -> Contents:
    """Makes the VM ARCHIVED, claimed by whoever moves its copies."""
    record = changes.find(contents, key)
    changes.require_free(record)
    changes.require_untouched(record)
    moved = replace(record, status=move(record.status, Event.ARCHIVE), moving="archive")
    return changes.claim(contents.with_vm(moved), key, session, "archive", when, floor=floor)


def start_activation(
    contents: Contents, key: str, session: str, when: str, floor: int = 0
) -> Contents:
    """Claims an archived VM for moving its copies back; it stays ARCHIVED until they are."""
    record = changes.find(contents, key)
    changes.require_free(record)
    require_archived(record)
    return changes.claim(
        contents.with_vm(replace(record, moving="activate")),
        key,
        session,
        "activate",
        when,
        floor=floor,
    )


def require_archived(record: VmRecord) -> None:
    """Raises `IllegalMoveError` if the VM is not archived, so that there is nothing to take back."""
    if record.status != State.ARCHIVED:
        raise IllegalMoveError(
            f"{record.key} is {record.status}, not {State.ARCHIVED}: there is nothing to activate",
            hint="its copies are in their place",
        )


def resume_move(contents: Contents, key: str, session: str, when: str, floor: int = 0) -> Contents:
    """Claims a VM whose interrupted archive or activate is to be finished."""
    record = changes.find(contents, key)
    if record.moving is None:
        raise IllegalMoveError(f"{key}: there is no interrupted move")
    return changes.claim(contents, key, session, record.moving, when, floor=floor)


def moved(contents: Contents, key: str, own: Claim, event: Event | None = None) -> Contents:
    """The copies are where they belong; for an activation `event` says what the VM becomes."""
    record = changes.held(contents, key, own)
    status = move(record.status, event) if event is not None else record.status
    return contents.with_vm(replace(record, status=status, moving=None, claim=None))


def forget(contents: Contents, key: str) -> Contents:
    """Deletes a record; its copies stay.

    Raises `IllegalMoveError` or `LockedError` while somebody works on the VM.
    """
    if key not in contents.vms and contents.unusable_row("vms", key):
        return contents.without_unusable("vms", key)
    record = changes.find(contents, key)
    changes.require_free(record)
    changes.require_untouched(record)
    if record.status not in FORGETTABLE:
        raise IllegalMoveError(
            f"{key} is {record.status} and cannot be forgotten",
            hint="wait until the backup has ended",
        )
    return replace(contents, vms={known: vm for known, vm in contents.vms.items() if known != key})
