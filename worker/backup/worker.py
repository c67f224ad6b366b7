"""backup: exports this host's VMs that wait for it, the one that has waited longest first.

On most ticks none waits, so what it takes to export one is imported only if one does
(`worker.backup.backup_round`).
"""

import logging
import sys
from typing import Final

import click

from shared import command_line
from shared.completion import VM
from shared.host.errors import ExitCode, UsageError
from shared.output import pasteable, say
from shared.site import Site
from shared.state.records import VmRecord
from worker import progress, progress_words
from worker.backup import backup_order
from worker.progress import Display
from worker.report import Report, start

log: Final = logging.getLogger(__name__)


def run(
    site: Site, *, only: str | None = None, now: bool = False, display: Display | None = None
) -> Report:
    """Backs up what waits, or only the VM `only`.

    Running VMs are tried last, for a bounded time, and then left for a later tick. With `now` the
    VM `only` is backed up also if it was not used, runs, or its window is closed. A crash leaves it
    as one that waits for its backup. `display`: where a person is shown how far it is.

    A host with nothing to back up reads the newest generation and nothing else.
    """
    contents = site.database.head().contents
    if only is not None:
        only = backup_order.require_backup(site, contents, only)
        if now:
            site, contents = backup_order.wanted_now(site, contents.vms[only])
    report = Report(
        deferred=[key for key in backup_order.deferred(site, contents) if only in (None, key)]
    )
    waiting = backup_order.waiting(site, contents, only)
    if only is not None and not waiting:
        say(pasteable(backup_order.why_not(site, contents, only)))
    if not all(_known_to_wait(site, record) for record in waiting):
        from worker.backup.backup_round import back_up

        back_up(site, report, only, display)
    return report


def _work(site: Site, only: str | None, *, now: bool, display: Display | None) -> Report:
    """Backs up, and says at the end what became of it all."""
    began = site.clock.monotonic()
    report = run(site, only=only, now=now, display=display)
    if display is None and not log.isEnabledFor(logging.INFO):
        return report  # nobody would see it, and a host that is idle asks the NAS for nothing more
    seconds = site.clock.monotonic() - began
    said = progress_words.summary(report, site.database.head().contents, seconds)
    if display is None:
        log.info("%s", said)
    else:
        display.say(said)
    return report


def _known_to_wait(site: Site, record: VmRecord) -> bool:
    """Whether the VM waits for its window to open, and that is noted already.

    Then there is nothing to do.
    """
    from worker.backup.admission import judge_window

    reason = judge_window(site.policy(record), site.clock.now()).reason
    return bool(reason) and reason == record.waiting


@command_line.documented(
    example=(
        "vmbackup-worker backup\nvmbackup-worker -v backup --vm web01\nvmbackup-worker "
        "backup --vm web01 --now\nvmbackup-worker backup --dry-run"
    ),
    codes=(
        *(
            ExitCode.SOME_FAILED,
            ExitCode.SOME_DEFERRED,
            ExitCode.NO_DATABASE,
            ExitCode.LOCKED,
            ExitCode.LOCK_LOST,
        ),
        *(ExitCode.NAS, ExitCode.VBOXMANAGE, ExitCode.STATE_REFUSED),
    ),
)
@click.option("--vm", type=VM, metavar="NAME", help="Only this VM, if it waits for a backup.")
@click.option(
    "--now",
    is_flag=True,
    help="With --vm: also if it was not used, runs, or its window is closed.",
)
@command_line.dry_run_option
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: one JSON document.")
@command_line.pass_invocation
def command(
    invocation: command_line.Invocation,
    *,
    vm: str | None,
    now: bool,
    dry_run: bool,
    as_json: bool,
) -> ExitCode:
    """Export the VMs of this host that wait for it, the one that has waited longest first.

    Running VMs come last; those that go on running are left for a later tick (exit code 4), and so
    are, with exit code 0, those whose window is closed, for which there is no place on the NAS, or
    that were stopped for a backup in vain a short while ago (--vm cuts that short). Exit code 13 if
    the NAS is why VMs were not backed up: no room, read-only, away. A copy counts only when it was
    exported, checked, and found to be that of a VM which nobody touched meanwhile.

    --now backs a VM up that does not wait for it. One that runs is backed up as its policy says,
    and live if that is to leave it alone.
    """
    if now and vm is None:
        raise UsageError("--now is for one VM: add --vm NAME")
    if as_json and not dry_run:
        raise UsageError("--json is for --dry-run")
    if dry_run:
        from worker.backup.plan import print_plan

        return print_plan(invocation, vm, now=now, as_json=as_json)
    display = progress.display_here(as_json=invocation.log_format == "json")
    return start(
        invocation,
        "backup",
        lambda site: _work(site, vm, now=now, display=display),
        lambda configuration: configuration.backup.parallel,
        asked=vm is not None,
    )


if __name__ == "__main__":
    from worker.cli import program

    program.main(["backup", *sys.argv[1:]])
