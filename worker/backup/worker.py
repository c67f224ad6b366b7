"""backup: exports this host's VMs that wait for it, the one that has waited longest first."""

import contextlib
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
    VmBackupError,
)
from shared.host.printable import quoted
from shared.output import say
from shared.site import Site
from shared.state.records import Contents, VmRecord
from shared.state.rules import changes, sightings
from shared.state.sessions.holding import Holding, holding
from shared.state.sessions.session import Session
from shared.state.states import Event, State
from shared.virtualbox.export import VmRunsError
from worker.backup import queue
from worker.backup.admission import Admission, Judge
from worker.backup.export import Backup
from worker.backup.readiness import PostponedError, judge_window
from worker.outcome import Outcome, start

log: Final = logging.getLogger(__name__)


def run(site: Site, *, only: str | None = None) -> Outcome:
    """Backs up what waits, or only the VM `only`.

    Running VMs are tried last, for a bounded time, and then left for a later tick.

    A host with nothing to back up reads the newest generation and nothing else.
    """
    contents = site.database.head().contents
    if only is not None:
        _require_backup(contents, only, site.node)
    outcome = Outcome(
        deferred=[key for key in queue.deferred(contents, site.node) if only in (None, key)]
    )
    waiting = [
        record for record in queue.waiting(contents, site.node) if only in (None, record.key)
    ]
    if all(_known_to_wait(site, record) for record in waiting):
        return outcome
    with site.database.session("backup") as session:
        Round(site, session, outcome, only).run()
    return outcome


def plan(site: Site, only: str | None = None) -> list[str]:
    """The keys of the VMs that `run` would back up, in order."""
    contents = site.database.head().contents
    if only is not None:
        _require_backup(contents, only, site.node)
    waiting = [
        record for record in queue.waiting(contents, site.node) if only in (None, record.key)
    ]
    judge = Judge(site, insists=only is not None, looks=True)
    return [record.key for record in waiting if not judge.judge(record).reason]


def _known_to_wait(site: Site, record: VmRecord) -> bool:
    """Whether the VM waits for its window to open, and that is noted already.

    Then there is nothing to do.
    """
    reason = judge_window(site.configuration.policy_for(record.name), site.clock.now()).reason
    return bool(reason) and reason == record.waiting


def _require_backup(contents: Contents, key: str, node: str) -> None:
    record = changes.find(contents, key)
    changes.require_free(record)
    if record.node != node:
        raise UnknownVmError(
            f"{key} belongs to the host {record.node}", hint="run its backup there"
        )
    if record.status == State.ARCHIVED:
        raise IllegalMoveError(
            f"{key} is {record.status} and is never backed up",
            hint=f"vmbackup-admin activate {quoted(key)}",
        )


class Round:
    """One run of a backup worker."""

    def __init__(self, site: Site, session: Session, outcome: Outcome, only: str | None) -> None:
        self._site, self._session, self._outcome, self._only = site, session, outcome, only
        self._tried: set[str] = set()
        self._admission = Admission(site, session, insists=only is not None)

    def run(self) -> None:
        """Takes VMs until none is left that may be taken now, then looks for a while whether a running one stops."""
        try:
            self._run()
        finally:
            postponed = self._admission.postponed
            self._outcome.failed += [key for key, verdict in postponed.items() if verdict.never]
            self._outcome.postponed += [
                key for key, verdict in postponed.items() if not verdict.never
            ]
            self._outcome.nas += [key for key, verdict in postponed.items() if verdict.nas]
        self._admission.note()

    def _run(self) -> None:
        backup = self._site.configuration.backup
        running = self._take_all()
        if not running:
            return
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
        self._defer(retrying(self._take_all))

    def _take_all(self) -> list[str]:
        """Backs up every waiting VM that does not run; answers the keys of those that do.

        Reads the queue anew after each backup.
        """
        found_running: list[str] = []
        while True:
            self._session.check()
            contents = self._site.database.head().contents
            waiting = [
                record
                for record in queue.waiting(contents, self._site.node)
                if self._wanted(record, found_running)
            ]
            if not waiting:
                return found_running
            record = waiting[0]
            if self._admission.refuses(record):
                continue
            if self._runs(record):
                found_running.append(record.key)
                continue
            try:
                self._take(record)
            except TooManyExportsError:
                if not self._admission.wait_for_place(record):
                    self._admission.no_place(waiting)

    def _wanted(self, record: VmRecord, found_running: list[str]) -> bool:
        passed = (
            record.key in found_running
            or record.key in self._tried
            or record.key in self._admission.postponed
        )
        return self._only in (None, record.key) and not passed

    def _runs(self, record: VmRecord) -> bool:
        """Whether the VM runs and must be left alone.

        If VirtualBox cannot say, its backup will fail and say why.
        """
        if self._site.configuration.policy_for(record.name).running != "defer":
            return False
        try:
            return not self._site.vboxmanage.info(record.uuid).stopped
        except VmBackupError:
            return False

    def _take(self, record: VmRecord) -> None:
        """Claims a VM and backs it up.

        Raises `TooManyExportsError` if there is no place for it on the NAS.
        """
        key, limit = record.key, self._admission.limit
        try:
            self._site.directory(record)
        except UnusableRecordError as error:
            log.error("%s", error.message, extra={"vm": key})  # noqa: TRY400 - an operator's message, not a fault
            self._tried.add(key)
            self._outcome.failed.append(key)
            return
        start = partial(
            changes.claim, key=key, purpose="backup", limit=limit, floor=self._site.floor(key)
        )
        with contextlib.ExitStack() as stack:
            try:
                held = stack.enter_context(holding(self._session, start, f"claim {key}"))
            except TooManyExportsError:
                raise
            except (LockedError, IllegalMoveError, UnknownVmError) as error:
                log.info("not taken: %s", error.message, extra={"vm": key})
                self._tried.add(key)
                return
            self._tried.add(key)
            self._back_up(held)

    def _back_up(self, held: Holding) -> None:
        backup = Backup(self._site, held, insists=self._only is not None)
        try:
            done = backup.run()
        except VmRunsError as error:
            log.info("left for a later tick: %s", error.message, extra={"vm": held.key})
            self._outcome.deferred.append(held.key)
        except PostponedError as error:
            self._admission.postponed[held.key] = error.verdict
        else:
            (self._outcome.done if done else self._outcome.failed).append(held.key)
            self._outcome.nas += [held.key] if backup.nas_refused else []

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
        self._outcome.deferred += running


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
