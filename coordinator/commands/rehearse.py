"""`vmbackup-admin rehearse`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from coordinator import text, vm_argument
from coordinator.copies_site import open_copies
from coordinator.options import FiniteRange, copy_option
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.completion import VM
from shared.host.errors import ExitCode, UsageError
from shared.host.printable import quoted
from shared.output import answer, print_json, say, warn

if TYPE_CHECKING:
    from shared.copies.catalogue import Copy
    from shared.tasks.rehearsal import Rehearsal

_WAIT_SECONDS: Final = 120.0


@documented(
    example="""
        vmbackup-admin rehearse web01
        vmbackup-admin rehearse web01 --boot --wait 300 --set memory=2048
    """,
    codes=[
        *(ExitCode.SOME_FAILED, ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.LOCK_LOST),
        *(ExitCode.NAS, ExitCode.VBOXMANAGE),
    ],
    special={ExitCode.SOME_FAILED: "the copy cannot be restored, or did not start"},
)
@click.argument("vm", type=VM)
@copy_option
@click.option(
    "--boot",
    is_flag=True,
    help="Start the VM from the copy, without a screen and without its network, and watch it.",
)
@click.option(
    "--full", is_flag=True, help="Also with --boot: read the copy in full, and import it."
)
@click.option(
    "--wait",
    "seconds",
    type=FiniteRange(min=1),
    help=f"With --boot: how many seconds it may take to come up ({_WAIT_SECONDS:g}).",
)
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where there is room for it; else host.state_directory.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="With --boot: a setting of `VBoxManage modifyvm` for the start, like memory=2048.",
)
@json_option
@dry_run_option
@pass_invocation
def command(  # noqa: PLR0913 - options of the command line
    invocation: Invocation,
    *,
    vm: str,
    which: str,
    boot: bool,
    full: bool,
    seconds: float | None,
    folder: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
    dry_run: bool,
) -> ExitCode:
    """Try out whether a copy can be restored, on this host.

    Read it in full, import it under a scratch name, and remove that. With --boot a VM is started
    whose disks are served from the copy, and which is removed, too: nothing is imported, only what
    the guest writes takes room, and only what it reads is read; `verify` reads the rest. Where that
    cannot be, which is said, before it is said that the copy does not come up, and with --full, it
    is read in full and imported before the start.

    With --boot the VM is started with what may stay of it only (docs/restore.md): no network, no
    shared folder, nothing that writes to this host or listens there. If it had Guest Additions,
    they must answer within --wait seconds; else it must go on running for so long and do something.
    What was seen is shown, and recorded beside the copy. Exit code 3 if the copy is damaged, cannot
    be restored, or does not come up.
    """
    from coordinator.restore import choice, kept_places, restoring
    from shared.tasks import rehearsal
    from shared.tasks.rehearsal_trial import Wishes

    if not boot and (settings or seconds is not None):
        raise UsageError(
            f"{'--set' if settings else '--wait'} goes with --boot: without it nothing is started",
            hint=f"vmbackup-admin rehearse --boot {quoted(vm)}",
        )
    if folder:
        restoring.refuse_mistyped(folder)
    wait = _WAIT_SECONDS if seconds is None else seconds
    wishes = Wishes(boot, full, wait, folder, tuple(map(_setting, settings)))
    opened = open_copies(invocation, reading=dry_run)
    site, record = opened.site, vm_argument.choose(opened.site, opened.contents, vm)
    if folder:
        kept_places.refuse_kept_place(site.configuration.nas, folder)
    chosen = choice.look_for(site, record, which)
    warnings = [*opened.warnings, *([chosen.doubt] if chosen.doubt else [])]
    if chosen.doubt:
        warn(chosen.doubt)
    if dry_run:
        more = {"warnings": warnings, "database": opened.database, "dry_run": True}
        _show_planned(vm, chosen.copy, more, boot=boot, full=full, as_json=as_json)
        return ExitCode.DONE

    def show(doing: str, percent: float) -> None:
        text.progress(f"{vm}: {doing} {percent:.0f} %" if percent else f"{vm}: {doing}")

    try:
        with rehearsal.alone(site) as turn:
            done = rehearsal.rehearse(
                turn, site, record, chosen.copy, wishes, show, noted=opened.usable
            )
    finally:
        text.progress("")
    _show_done(vm, done, warnings, opened.database, as_json=as_json)
    return ExitCode.DONE if done.good else ExitCode.SOME_FAILED


def _show_planned(
    vm: str, copy: "Copy", more: Mapping[str, Any], *, boot: bool, full: bool, as_json: bool
) -> None:
    """What would be done with a copy; the document ends with what there is `more` to say."""
    from shared.tasks import rehearsal

    why = rehearsal.why_imported(copy) if boot and not full else ""
    imported = bool(why) or full or not boot
    which = f"{copy.stamp} ({text.size(copy.size)})"
    if imported:
        said = f"would read {which} in full, import it, {'start it, ' * boot}and remove it again"
    else:
        said = f"would start {which} from the copy, without an import, and remove it again"
    facts = {"vm": vm, "stamp": copy.stamp, "size": copy.size, "boot": boot, "full": full}
    facts |= {"imported": imported, "imported_because": why}
    answer(
        {**facts, **more},
        said,
        *([f"It has to be imported: {why}"] if why else []),
        as_json=as_json,
    )


def _show_done(
    vm: str, done: "Rehearsal", warnings: list[str], database: str, *, as_json: bool
) -> None:
    if as_json:
        result = {**asdict(done.result), "recorded": done.recorded, "warnings": warnings}
        result["database"] = database
        print_json({"schema": 1, "vm": vm, "stamp": done.stamp, "good": done.good, **result})
    else:
        said = (
            f"{done.result.result} ({done.result.observed})"
            if done.result.observed
            else done.result.result
        )
        say(f"{vm} {done.stamp}: {said}")
        if done.result.imported_because:
            say(f"VirtualBox imported it: {done.result.imported_because}")
        if not done.recorded:
            warn("the result could not be recorded beside the copy")


def _setting(assignment: str) -> tuple[str, str]:
    name, equals, value = assignment.partition("=")
    if not equals or not name.strip("-") or not name.replace("-", "").isalnum():
        raise UsageError(f"{assignment!r} is no setting", hint="--set memory=2048")
    return name.lstrip("-"), value
