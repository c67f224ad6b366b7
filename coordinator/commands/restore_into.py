"""`vmbackup-admin restore --into`."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from coordinator import dead_sessions, text, vm_argument
from shared.command_line import Invocation
from shared.host.errors import ExitCode, UsageError
from shared.host.printable import quoted
from shared.output import answer, warn

if TYPE_CHECKING:
    from coordinator.restore.in_place import Plan, TakenBack
    from shared.copies.catalogue import Copy
    from shared.site import Site
    from shared.state.records import VmRecord
    from shared.tasks.swap_note import Swap, SwapNote

_LEFT: Final = (
    "Its settings, firmware variables (NVRAM), TPM and CDs are left as they are: only its disks "
    "go back."
)


def refuse_others(*, making: bool, finish: bool, undo: bool, which: str, discard: bool) -> None:
    """Raises `UsageError` for options that mean nothing with --into, --finish or --undo."""
    if making:
        raise UsageError(
            "--into makes no VM: it goes with --copy and --discard-present-state",
            hint="a VM beside the original: without --into",
        )
    if finish and undo:
        raise UsageError(
            "--finish and --undo exclude each other: one removes the old disks, the other puts "
            "them back"
        )
    if finish and (discard or which != "latest"):
        raise UsageError("--finish removes the old disks, and does nothing else")
    if undo and which != "latest":
        raise UsageError("--undo puts the old disks back: --copy means nothing to it")


def take_back(
    invocation: Invocation, vm: str, which: str, *, discard: bool, as_json: bool, dry_run: bool
) -> ExitCode:
    """Takes VM back to a copy, in place, and says what is kept and how to go on."""
    from coordinator.restore import choice, in_place_settling

    site = invocation.site(reading=dry_run)
    record = vm_argument.choose(site, site.database.head().contents, vm)
    chosen = choice.look_for(site, record, which)
    if chosen.doubt:
        warn(chosen.doubt)
    if dry_run:
        return _foreseen(vm, _planned(site, record, chosen.copy, discard=discard), as_json=as_json)
    note = in_place_settling.note_of(site, record)
    with in_place_settling.alone(site, note):
        dead_sessions.free_holder(site, record.key)
        done = _resumed(site, record, note, chosen.copy) or _taken_back(
            site, vm, record, chosen.copy, discard=discard
        )
    recorded = record_it(site, record, done.swap)
    return _told(vm, record, done, recorded=recorded, as_json=as_json)


def _planned(site: "Site", record: "VmRecord", copy: "Copy", *, discard: bool) -> "Plan":
    """What would be done. Raises `LockedError` where the command would, and what `plan` raises."""
    from coordinator.restore import in_place
    from shared.state.rules import vm_records

    vm_records.require_free(record)
    vm_records.require_finished(record)
    newest = in_place.newest_good(site, record)
    return in_place.plan(site, record, copy, newest, discard=discard)


def _resumed(
    site: "Site", record: "VmRecord", note: "SwapNote", copy: "Copy"
) -> "TakenBack | None":
    """What a command that was killed has done to its end but for saying so.

    None, if it has put no disks in place. Raises `IllegalMoveError` if it is said already, or if
    those are not the disks of `copy`.
    """
    from coordinator.restore import in_place, in_place_settling

    before = note.read()
    after, unnoted = in_place_settling.settle(site, note, before)
    if before is None or after is None:
        return None
    if before.done or after.stamp != copy.stamp:
        if not in_place_settling.is_recorded(record, after):
            record_it(site, record, after)
        in_place_settling.refuse_unfinished(after, record, copy.stamp)
    return in_place.TakenBack(after, 0, resumed=True, trouble=unnoted)


def _taken_back(
    site: "Site", vm: str, record: "VmRecord", copy: "Copy", *, discard: bool
) -> "TakenBack":
    """Takes the VM back. What goes wrong when it has its new disks is a warning."""
    from coordinator.restore import in_place, in_place_settling
    from shared.tasks import vm_copies

    def show(doing: str, percent: float) -> None:
        text.progress(f"{vm}: {doing} {percent:.0f} %")

    done = None
    reason = f"restore {record.key} {copy.stamp} in place"
    try:
        with (
            site.database.session("restore") as session,
            vm_copies.hold(
                *(site, session, record.key, "verify", reason), makes_files=False
            ) as held,
            ExitStack() as locks,
        ):
            newest = in_place.newest_good(site, record)
            what = in_place.plan(site, record, copy, newest, discard=discard)
            note = in_place_settling.note_of(site, record)
            try:
                done = in_place.take_back(site, held, what, note, show, locks)
            finally:
                text.progress("")
    except BaseException as error:
        if done is None:
            raise
        warn(f"the VM was taken back, but is not let go of: {in_place_settling.said_of(error)}")
    return done


def _foreseen(vm: str, what: "Plan", *, as_json: bool) -> ExitCode:
    places = [disk.place for disk in what.disks]
    needed = sum(disk.data for disk in what.disks)
    answer(
        {
            "vm": vm,
            "stamp": what.copy.stamp,
            "uuid": what.machine.uuid,
            "disks": places,
            "needed": needed,
            "discarded": list(what.lost),
            "dry_run": True,
        },
        f"would take {vm} back to {what.copy.stamp}: {', '.join(places)}",
        f"the new disks take {text.size(needed)} beside the old ones at most, less where the file "
        "system has reflinks",
        *(f"what it is now is in no copy: {lost}" for lost in what.lost),
        _LEFT,
        as_json=as_json,
    )
    return ExitCode.DONE


def record_it(site: "Site", record: "VmRecord", swap: "Swap") -> bool:
    """Notes it in the database; answers whether that could be done."""
    from coordinator.restore import in_place_settling

    try:
        in_place_settling.record_it(site, record, swap)
    except BaseException as error:  # noqa: BLE001 - it has its new disks, whatever comes
        why = in_place_settling.said_of(error)
        warn(f"the VM was taken back, but that is not in the log: {why}")
        return False
    return True


def _told(
    vm: str, record: "VmRecord", done: "TakenBack", *, recorded: bool, as_json: bool
) -> ExitCode:
    from shared.tasks import disk_swap

    swap = done.swap
    if done.trouble:
        warn(f"the VM was taken back; then: {done.trouble}")
    old = disk_swap.left_of_old(swap)
    how = (
        ": a command that was killed had done it"
        if done.resumed
        else f"; {text.size(done.written)} were written"
    )
    answer(
        {
            "vm": vm,
            "stamp": swap.stamp,
            "uuid": swap.uuid,
            "written": done.written,
            "disks": [disk.place for disk in swap.disks],
            "old_disks": list(old),
            "resumed": done.resumed,
            "recorded": recorded,
            "dry_run": False,
        },
        f"{vm} is what it was at {swap.stamp}{how}",
        _LEFT,
        "Its disks of before are kept:",
        *(f"  {path}" for path in old),
        f"When it runs as it should: `vmbackup-admin restore --into --finish {quoted(record.key)}` "
        "removes them; if it shall be what it was: --undo in place of --finish.",
        "It is backed up by the next run, for it is not what it was at its last backup.",
        as_json=as_json,
    )
    return ExitCode.DONE
