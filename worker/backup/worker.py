"""backup: exports this host's VMs that wait for it, the one that has waited longest first."""

import logging
import sys
from functools import partial
from typing import Final

import click
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from shared import command_line
from shared.host.errors import (
    ExitCode,
    IllegalMoveError,
    LockedError,
    TooManyExportsError,
    UnknownVmError,
    UnusableRecordError,
)
from shared.output import say
from shared.site import Site
from shared.state.records import VmRecord
from shared.state.rules import claims, sightings
from shared.state.sessions.holding import Holding, holding
from shared.state.sessions.session import Session
from shared.state.states import Event
from shared.virtualbox.export_errors import VmRunsError
from worker.backup import queue
from worker.backup.admission import Admission, PostponedError, judge_window
from worker.backup.attempt import Attempt
from worker.backup.window import Readiness
from worker.report import Report, start

log: Final = logging.getLogger(__name__)


def run(site: Site, *, only: str | None = None) -> Report:
    """Backs up what waits, or only the VM `only`.

    Running VMs are tried last, for a bounded time, and then left for a later tick.

    A host with nothing to back up reads the newest generation and nothing else.
    """
    contents = site.database.head().contents
    if only is not None:
        only = queue.require_backup(site, contents, only)
    report = Report(deferred=[key for key in queue.deferred(site, contents) if only in (None, key)])
    waiting = queue.waiting(site, contents, only)
    if all(_known_to_wait(site, record) for record in waiting):
        return report
    with site.database.session("backup") as session:
        BackupRound(site, session, report, only).run()
    return report


def plan(site: Site, only: str | None = None) -> list[str]:
    """The keys of the VMs that `run` would back up, in order."""
    contents = site.database.head().contents
    if only is not None:
        only = queue.require_backup(site, contents, only)
    waiting = queue.waiting(site, contents, only)
    admission = Admission(site, forced=only is not None, read_only=True)
    return [record.key for record in waiting if not admission.verdict(record).reason]


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
        self._admission = Admission(site, forced=only is not None)
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
        log.info(
            "only running VMs are left: %s; looking again for %g s",
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
        attempt = Attempt(self._site, held, forced=self._only is not None)
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
        "backup --dry-run"
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
@click.option("--vm", metavar="NAME", help="Only this VM, if it waits for a backup.")
@command_line.dry_run_option
@command_line.pass_invocation
def command(invocation: command_line.Invocation, vm: str | None, dry_run: bool) -> ExitCode:  # noqa: FBT001 - click passes it by name
    """Export the VMs of this host that wait for it, the one that has waited longest first.

    Running VMs come last; those that go on running are left for a later tick (exit code 4), and so
    are, with exit code 0, those whose window is closed, for which there is no place on the NAS, or
    that were stopped for a backup in vain a short while ago (--vm cuts that short). Exit code 13 if
    the NAS is why VMs were not backed up: no room, read-only, away. A copy counts only when it was
    exported, checked, and found to be that of a VM which nobody touched meanwhile.
    """
    if dry_run:
        for key in plan(invocation.site(reading=True), vm):
            say(key)
        return ExitCode.DONE
    return start(
        invocation,
        "backup",
        lambda site: run(site, only=vm),
        lambda configuration: configuration.backup.parallel,
    )


if __name__ == "__main__":
    from worker.cli import program

    program.main(["backup", *sys.argv[1:]])
