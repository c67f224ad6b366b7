"""Copies of which no record tells: a record for as long as somebody works on them, or for good.

What is done to copies is done under a claim, and a claim is a field of a record. So whoever works
on copies without a record takes them in: the record is NEW, names the session (`taken_in_by`), and
goes when that session is over. A host that finds the VM meanwhile makes it an ordinary one. Pure.
"""

from dataclasses import replace

from shared.host.errors import IllegalMoveError, LockedError
from shared.host.printable import quoted
from shared.nas.spelling import folded
from shared.state.contents import Contents
from shared.state.hold import require_unheld
from shared.state.records import VmRecord
from shared.state.rules import expiry, vm_records
from shared.state.states import INITIAL, Event, move


def take_in(contents: Contents, made: VmRecord, session: str) -> Contents:
    """With a record for unlisted copies, which goes when `session` is over.

    `made` is that record, its key is one that only its copies have. It takes the place of one of
    copies of the VM in another directory: a VM has one record. Raises `LockedError` if the VM has
    been found by its host meanwhile or somebody works on those other copies, `IllegalMoveError`
    like `require_own_directory`.
    """
    known = _of_uuid(contents, made.uuid)
    if known is not None and not known.taken_in_by:
        raise _found_again(known)
    require_own_directory(contents, made)
    if known is None or (known.key, known.directory) == (made.key, made.directory):
        return contents.with_vm(replace(known or made, taken_in_by=session))
    if not expiry.is_untouched(known):
        raise LockedError(
            f"somebody works on copies of {made.uuid} in another directory, {known.directory}",
            hint=f"wait for it, or look at it: vmbackup-lock show {quoted(known.key)}",
        )
    return contents.without_vm(known.key).with_vm(replace(made, taken_in_by=session))


def keep_archived(contents: Contents, made: VmRecord, when: str) -> Contents:
    """With a record for unlisted copies that is ARCHIVED, and stays; its copies are to be moved.

    Whoever finds it goes on with the move. Raises like `take_in`, and `LockedError` while somebody
    works on the copies.
    """
    known = _of_uuid(contents, made.uuid)
    if known is not None and (known.claim is not None or not known.taken_in_by):
        raise _found_again(known)
    if known is not None:
        require_unheld(known.key, known.holds, "its copies cannot be moved")
    require_own_directory(contents, made)
    rest = contents.without_vm(known.key) if known is not None else contents
    return rest.with_vm(
        replace(
            made,
            key=vm_records.free_key(rest, made.name, made.node, made.uuid),
            status=move(INITIAL, Event.ARCHIVE),
            taken_in_by="",
            moving="archive",
            moving_since=when,
        )
    )


def require_own_directory(contents: Contents, made: VmRecord) -> None:
    """Raises `IllegalMoveError` if the copies lie in the directory of a VM that has a record."""
    named = folded(made.directory)
    other = next(
        (
            vm
            for vm in contents.vms.values()
            if folded(vm.directory) == named and vm.uuid.lower() != made.uuid.lower()
        ),
        None,
    )
    if other is not None:
        raise IllegalMoveError(
            f"the copies of {made.uuid} lie in {made.directory}, the directory of {other.key}",
            hint="they can be restored; to do more, move them to a directory of their own",
        )


def _of_uuid(contents: Contents, uuid: str) -> VmRecord | None:
    return next((vm for vm in contents.vms.values() if vm.uuid.lower() == uuid.lower()), None)


def _found_again(known: VmRecord) -> LockedError:
    return LockedError(
        f"{known.uuid} has a record: {known.key}, whose directory is {known.directory}",
        hint=f"name {quoted(known.key)}; copies that lie elsewhere can be restored, or moved there",
    )
