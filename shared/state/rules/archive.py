"""Archiving a VM and activating it again: the claim, the move of its copies, the end. Pure."""

from dataclasses import replace

from shared.host.errors import IllegalMoveError
from shared.host.printable import quoted
from shared.state.contents import Contents
from shared.state.hold import require_unheld
from shared.state.records import Claim, VmRecord
from shared.state.rules import claims, readers, vm_records
from shared.state.states import Event, State, move


def archived(record: VmRecord) -> State:
    """The state of an archived VM. Raises `IllegalMoveError` if this one cannot become that now."""
    if record.status == State.ARCHIVED:
        raise IllegalMoveError(
            f"{record.key} is ARCHIVED already",
            hint=f"`vmbackup-admin activate {quoted(record.key)}` takes it back into the backups",
        )
    return move(record.status, Event.ARCHIVE)


def start_archive(
    contents: Contents, key: str, session: str, when: str, floor: int = 0
) -> Contents:
    """Makes the VM ARCHIVED, claimed by whoever moves its copies."""
    record = vm_records.find(contents, key)
    vm_records.require_free(record)
    vm_records.require_untouched(record)
    require_still(contents, record)
    moved = replace(record, status=archived(record), moving="archive", moving_since=when)
    return claims.grant(contents.with_vm(moved), key, session, "archive", when, floor=floor)


def resume_archive(
    contents: Contents, key: str, session: str, when: str, floor: int = 0
) -> Contents:
    """Claims an ARCHIVED VM whose copies were still being moved, for moving them to the archive.

    Raises `LockedError` while somebody moves them, and `IllegalMoveError` if they were moved long
    ago.
    """
    record = vm_records.find(contents, key)
    vm_records.require_free(record)
    if record.status != State.ARCHIVED or record.moving is None:
        raise IllegalMoveError(f"{key} is {record.status} already")
    return claims.grant(
        contents.with_vm(replace(record, moving="archive")),
        key,
        session,
        "archive",
        when,
        floor=floor,
    )


def start_activation(
    contents: Contents, key: str, session: str, when: str, floor: int = 0
) -> Contents:
    """Claims an archived VM for moving its copies back; it stays ARCHIVED until they are."""
    record = vm_records.find(contents, key)
    vm_records.require_free(record)
    require_archived(record)
    require_still(contents, record)
    return claims.grant(
        contents.with_vm(replace(record, moving="activate", moving_since=when)),
        key,
        session,
        "activate",
        when,
        floor=floor,
    )


def resume_move(contents: Contents, key: str, session: str, when: str, floor: int = 0) -> Contents:
    """Claims a VM whose interrupted archive or activate is to be finished."""
    record = vm_records.find(contents, key)
    if record.moving is None:
        raise IllegalMoveError(f"{key}: there is no interrupted move")
    return claims.grant(contents, key, session, record.moving, when, floor=floor)


def moved(contents: Contents, key: str, own: Claim, event: Event | None = None) -> Contents:
    """The copies are where they belong; for an activation `event` says what the VM becomes."""
    record = claims.held(contents, key, own)
    status = move(record.status, event) if event is not None else record.status
    return contents.with_vm(
        replace(record, status=status, moving=None, moving_since="", claim=None)
    )


def require_still(contents: Contents, record: VmRecord) -> None:
    """Raises `LockedError` if somebody reads a copy of the VM, or a VM runs from one."""
    readers.require_unread(contents, record.uuid)
    require_unheld(record.key, record.holds, "its copies cannot be moved")


def require_archived(record: VmRecord) -> None:
    """Raises `IllegalMoveError` if the VM is not archived: there is nothing to activate."""
    if record.status != State.ARCHIVED:
        raise IllegalMoveError(
            f"{record.key} is {record.status}, not {State.ARCHIVED}: there is nothing to activate",
            hint="its copies are in their place",
        )
