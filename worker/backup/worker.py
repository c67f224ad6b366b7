"""backup: exports this host's VMs that wait for it, the one that has waited longest first."""

import logging
import sys
from functools import partial
from typing import Final

import click
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from shared import command_line
from shared.completion import VM
from shared.host.errors import (
    ExitCode,
    IllegalMoveError,
    LockedError,
    TooManyExportsError,
    UnknownVmError,
    UnusableRecordError,
    UsageError,
)
from shared.host.logs import NOTICE
from shared.output import pasteable, say
from shared.site import Site
from shared.state.records import VmRecord
from shared.state.rules import claims, sightings
from shared.state.sessions.holding import Holding, holding
from shared.state.sessions.session import Session
from shared.state.states import Event
from shared.virtualbox.export_errors import VmRunsError
from worker import progress, progress_words
from worker.backup import queue
from worker.backup.admission import Admission, PostponedError, judge_window
from worker.backup.attempt import Attempt
from worker.backup.interruption import say_what_is_left
from worker.backup.looks import Looks
from worker.backup.plan import print_plan
from worker.backup.window import Readiness
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
        only = queue.require_backup(site, contents, only)
        if now:
            site, contents = queue.wanted_now(site, contents.vms[only])
    report = Report(deferred=[key for key in queue.deferred(site, contents) if only in (None, key)])
    waiting = queue.waiting(site, contents, only)
    if only is not None and not waiting:
        say(pasteable(queue.why_not(site, contents, only)))
    if all(_known_to_wait(site, record) for record in waiting):
        return report
    try:
        with (
            site.database.session("backup") as session,
            progress.shown(display, session.doing, report),
        ):
            BackupRound(site, session, report, only).run()
    except (KeyboardInterrupt, SystemExit) as error:
        say_what_is_left(site, report)
        error.add_note("said")
        raise
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
    reason = judge_window(site.policy(record), site.clock.now()).reason
    return bool(reason) and reason == record.waiting


class BackupRound:
    """One run of a backup worker."""

    def __init__(self, site: Site, session: Session, report: Report, only: str | None) -> None:
        self._site, self._session, self._report, self._only = site, session, report, only
        self._looks = Looks(site)
        self._admission = Admission(site, self._looks, forced=only is not None)
        self._tried: set[str] = set()
        self._postponed: dict[str, Readiness] = {}

    def run(self) -> None:
        """Takes VMs until none may be taken now, then looks again for those that run."""
        try:
            if running := self._take_all():
                self._defer(self._look_again(running))
        finally:
            for key, verdict in self._postponed.items():
                (self._report.failed if verdict.never else self._report.postponed).append(key)
                self._report.nas += [key] if verdict.nas else []
        queue.note_postponed(self._site, self._session, self._postponed)

    def _look_again(self, running: list[str]) -> list[str]:
        """Looks for a while whether a running VM stops. Returns those that go on running."""
        backup = self._site.configuration.backup
        log.log(
            NOTICE,
            "only running VMs are left: %s; waiting whether one stops, %g s at most",
            ", ".join(running),
            backup.retry_seconds,
        )
        retrying = Retrying(
            retry=retry_if_result(bool),
            stop=stop_after_delay(backup.retry_seconds),
            wait=wait_fixed(backup.retry_interval_seconds),
            sleep=self._site.clock.sleep,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else running,
        )
        return retrying(self._take_all)

    def _take_all(self) -> list[str]:
        """Backs up every waiting VM that does not run. Returns the keys of those that do.

        Reads the queue anew after each backup.
        """
        running: list[str] = []
        while waiting := self._next(running):
            record = waiting[0]
            verdict = self._admission.verdict(record)
            if verdict.reason:
                self._postponed[record.key] = verdict
            elif self._admission.left_alone(record):
                running.append(record.key)
            elif not self._take(record):
                self._postponed |= {each.key: Readiness(queue.NO_SLOT) for each in waiting}
        return running

    def _next(self, running: list[str]) -> list[VmRecord]:
        """The VMs that wait and were not looked at yet in this round."""
        self._session.check()
        return [
            record
            for record in queue.waiting(self._site, self._site.database.head().contents, self._only)
            if record.key not in {*running, *self._tried, *self._postponed}
        ]

    def _take(self, record: VmRecord) -> bool:
        """Claims a VM and backs it up. False if its turn for a slot on the NAS does not come.

        True as well if the VM has to be looked at again, because its turn has come.
        """
        key, limit = record.key, self._site.configuration.backup.exports_on_nas
        try:
            self._site.directory(record)
            start = partial(
                claims.grant, key=key, purpose="backup", limit=limit, floor=self._site.floor(key)
            )
            with holding(self._session, start, f"claim {key}") as held:
                self._tried.add(key)
                self._back_up(held)
        except TooManyExportsError:
            return queue.wait_for_slot(self._site, self._session, key)
        except UnusableRecordError as error:
            log.error("%s", error.message, extra={"vm": key})  # noqa: TRY400 - an operator's message, not a fault
            self._tried.add(key)
            self._report.failed.append(key)
        except (LockedError, IllegalMoveError, UnknownVmError) as error:
            if key in self._tried:  # it was claimed, and this is of the backup itself
                raise
            log.info("not taken: %s", error.message, extra={"vm": key})
            self._tried.add(key)
        return True

    def _back_up(self, held: Holding) -> None:
        self._report.begun.append(held.key)
        attempt = Attempt(self._site, held, self._looks, forced=self._only is not None)
        try:
            done = attempt.run()
        except VmRunsError as error:
            log.info("left for a later tick: %s", error.message, extra={"vm": held.key})
            self._report.deferred.append(held.key)
        except PostponedError as error:
            self._postponed[held.key] = error.verdict
        else:
            (self._report.done if done else self._report.failed).append(held.key)
            self._report.nas += [held.key] if attempt.nas_refused else []

    def _defer(self, running: list[str]) -> None:
        """Commits that these VMs still run."""
        contents = self._site.database.head().contents
        events = {
            contents.vms[key].uuid: (Event.SEEN_RUNNING,) for key in running if key in contents.vms
        }
        if not events:
            return
        self._session.commit(
            lambda found: sightings.apply_events(found, events),
            f"deferred, because they run: {', '.join(running)}",
        )
        log.info("deferred, because they run: %s", ", ".join(running))
        self._report.deferred += running


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
