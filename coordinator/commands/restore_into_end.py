"""`vmbackup-admin restore --into --finish`."""

from typing import TYPE_CHECKING

from coordinator import vm_argument
from coordinator.commands import restore_into
from shared.command_line import Invocation
from shared.host.errors import ExitCode, IllegalMoveError, UnknownVmError
from shared.output import answer

if TYPE_CHECKING:
    from shared.site import Site
    from shared.state.records import Restoration, VmRecord
    from shared.tasks.swap_note import SwapNote


def finish(invocation: Invocation, vm: str, *, as_json: bool, dry_run: bool) -> ExitCode:
    """Removes the disks that VM had before it was taken back."""
    from coordinator.restore import in_place_settling, in_place_unnoted
    from shared.tasks import disk_swap

    site = invocation.site(reading=dry_run)
    record, note = _meant(site, vm)
    key = record.key if record is not None else vm
    swap = note.read()
    if swap is None and record is not None:
        in_place_unnoted.require_none(site, key, record.uuid)
    before = record.restored if record is not None else None
    if swap is None and record is not None and before and before.uuid == record.uuid:
        if before.node != site.node:
            raise IllegalMoveError(
                f"{vm} was taken back to {before.stamp} on {before.node}: whether its disks of "
                "before are kept is known there",
                hint=f"give this command on {before.node}",
            )
        return _finished_before(vm, before, as_json=as_json, dry_run=dry_run)
    old = disk_swap.left_of_old(swap) if swap else ()
    if dry_run:
        swap = in_place_settling.finish(site, key, note, only_look=True)
    else:
        with in_place_settling.alone(site, note):
            swap = in_place_settling.finish(site, key, note, only_look=False)
        if record is not None and not in_place_settling.is_recorded(record, swap):
            restore_into.record_it(site, record, swap)
    answer(
        {"vm": vm, "stamp": swap.stamp, "removed": list(old), "dry_run": dry_run},
        f"{'would remove' if dry_run else 'removed'} the disks that {vm} had before it was taken "
        f"back to {swap.stamp}: {', '.join(old) or 'none is left'}",
        as_json=as_json,
    )
    return ExitCode.DONE


def _finished_before(vm: str, restored: "Restoration", *, as_json: bool, dry_run: bool) -> ExitCode:
    answer(
        {"vm": vm, "stamp": restored.stamp, "removed": [], "dry_run": dry_run},
        f"{vm} was taken back to {restored.stamp} at {restored.when}, and that is finished: none "
        "of its disks of before is kept",
        as_json=as_json,
    )
    return ExitCode.DONE


def _meant(site: "Site", vm: str) -> "tuple[VmRecord | None, SwapNote]":
    """The VM's record, if there is one, and its note. Raises like `vm_argument.choose`.

    A VM that was forgotten has no record, and may have no copies either.
    """
    from coordinator.restore import in_place_settling

    contents = site.database.head().contents
    try:
        record = vm_argument.choose(site, contents, vm)
    except UnknownVmError:
        if (note := in_place_settling.noted_of(site, vm)) is None:
            raise
        return None, note
    known = contents.vms.get(record.key)
    listed = known is not None and known.uuid == record.uuid
    return record if listed else None, in_place_settling.note_of(site, record)
