"""`vmbackup-admin restore --into --undo`."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from coordinator import dead_sessions, vm_argument
from coordinator.restore import in_place_settling, in_place_undo
from shared.command_line import Invocation
from shared.host.errors import ExitCode, IllegalMoveError
from shared.output import answer, warn
from shared.state.rules import vm_records
from shared.tasks import vm_copies

if TYPE_CHECKING:
    from shared.site import Site
    from shared.state.records import VmRecord
    from shared.tasks.swap_note import Swap, SwapNote


def undo(
    invocation: Invocation, vm: str, *, discard: bool, as_json: bool, dry_run: bool
) -> ExitCode:
    """Gives VM the disks again that it had before it was taken back."""
    site = invocation.site(reading=dry_run)
    record = vm_argument.choose(site, site.database.head().contents, vm)
    note = in_place_settling.note_of(site, record)
    if dry_run:
        vm_records.require_free(record)
        vm_records.require_finished(record)
        swap = _required(note.read(), vm)
        lost = in_place_undo.plan(site, record, swap, discard=discard).lost
        return _told(vm, swap, lost, as_json=as_json, dry_run=True)
    with in_place_settling.alone(site, note):
        dead_sessions.free_holder(site, record.key)
        before = _required(note.read(), vm)
        left, _ = in_place_settling.settle(site, note, before)
        # else what was broken off has ended with the old disks in place
        lost = _undone(site, record, note, left, discard=discard) if left is not None else ()
    _record(site, record, before)
    return _told(vm, before, lost, as_json=as_json, dry_run=False)


def _required(swap: "Swap | None", vm: str) -> "Swap":
    """Raises `IllegalMoveError` if nothing is noted."""
    if swap is None:
        raise IllegalMoveError(
            f"{vm} was not taken back to a copy, or that was finished or undone: no disks of "
            "before are kept"
        )
    return swap


def _undone(
    site: "Site", record: "VmRecord", note: "SwapNote", swap: "Swap", *, discard: bool
) -> tuple[str, ...]:
    """Undoes it; what is lost by that. What goes wrong when it has its old disks is a warning."""
    what, trouble = None, None
    reason = f"undo restore {record.key} {swap.stamp}"
    try:
        with (
            site.database.session("restore") as session,
            vm_copies.hold(
                *(site, session, record.key, "verify", reason), makes_files=False
            ) as held,
            ExitStack() as locks,
        ):
            what = in_place_undo.plan(site, record, swap, discard=discard)
            trouble = in_place_undo.undo(site, held, what, note, locks)
    except BaseException as error:
        if what is None or trouble is None:
            raise
        trouble = f"it is not let go of: {in_place_settling.said_of(error)}"
    if trouble:
        warn(f"the VM has its disks of before; then: {trouble}")
    return what.lost


def _record(site: "Site", record: "VmRecord", swap: "Swap") -> None:
    try:
        in_place_undo.record_it(site, record, swap)
    except BaseException as error:  # noqa: BLE001 - it has its old disks, whatever comes
        why = in_place_settling.said_of(error)
        warn(f"the VM has its disks of before, but that is not in the log: {why}")


def _told(
    vm: str, swap: "Swap", lost: tuple[str, ...], *, as_json: bool, dry_run: bool
) -> ExitCode:
    places = [disk.place for disk in swap.disks]
    facts = {"vm": vm, "stamp": swap.stamp, "uuid": swap.uuid, "disks": places}
    has = "would get" if dry_run else "has"
    answer(
        {**facts, "discarded": list(lost), "dry_run": dry_run},
        f"{vm} {has} the disks that it had before it was taken back to {swap.stamp}: "
        f"{', '.join(places)}",
        *(f"what it is now is lost: {each}" for each in (lost if dry_run else ())),
        as_json=as_json,
    )
    return ExitCode.DONE
