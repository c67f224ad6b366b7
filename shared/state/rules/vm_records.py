"""The records of VMs: finding one, whether it is free to be worked on, and forgetting it. Pure."""

from dataclasses import replace

from shared.host.errors import IllegalMoveError, LockedError, UnknownVmError, UnusableRecordError
from shared.host.printable import printable, quoted
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import unfinished
from shared.state.states import FORGETTABLE


def find(contents: Contents, key: str) -> VmRecord:
    """The record of `key`.

    Raises `UnknownVmError` that names similar ones, and `UnusableRecordError` if it does not fit.
    """
    record = contents.vms.get(key)
    if record is not None:
        return record
    if row := contents.unusable_row("vms", key):
        raise UnusableRecordError(
            row.message,
            hint=(
                f"if no newer program wrote it, `vmbackup-admin forget {quoted(key)}` deletes it, "
                f"and the next vmfind finds the VM again; no copy is touched"
            ),
        )
    similar = sorted(
        known for known in contents.vms if known.casefold().startswith(key.casefold()[:3])
    )[:5]
    raise UnknownVmError(
        f"there is no VM {key!r} in the state database",
        hint=f"similar: {', '.join(map(printable, similar))}"
        if similar
        else "`vmbackup-admin status` lists all VMs",
    )


def require_free(record: VmRecord) -> None:
    """Raises `LockedError` when somebody works on the VM, saying who, for what, and since when."""
    if record.claim is not None:
        raise LockedError(
            (
                f"{record.key} is locked: {record.claim.purpose} by session {record.claim.session} "
                f"since {record.claim.since}"
            ),
            hint=f"wait for it, or look at it: vmbackup-lock show {quoted(record.claim.session)}",
        )


def require_untouched(record: VmRecord) -> None:
    """Raises `LockedError` while what a backup that died did to the VM has not been undone."""
    if record.power is not None:
        raise LockedError(
            (
                f"{record.key} is not yet as a backup found it ({record.power.method}, it was "
                f"{record.power.found})"
            ),
            hint=unfinished.finished_by(record),
        )


def forget(contents: Contents, key: str) -> Contents:
    """Deletes a record; its copies stay.

    Raises `IllegalMoveError` or `LockedError` while somebody works on the VM.
    """
    if key not in contents.vms and contents.unusable_row("vms", key):
        return contents.without_unusable("vms", key)
    record = find(contents, key)
    require_free(record)
    require_untouched(record)
    if record.status not in FORGETTABLE:
        raise IllegalMoveError(
            f"{key} is {record.status} and cannot be forgotten",
            hint="wait until the backup has ended",
        )
    return replace(contents, vms={known: vm for known, vm in contents.vms.items() if known != key})
