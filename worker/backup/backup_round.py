"""One run of a backup worker that has VMs to back up: which it takes, and what becomes of each.

On most ticks there are none, so `worker.backup.worker` imports this, and with it the engines and
all that knows how a VM is exported, only if there are.
"""

import logging
from functools import partial
from typing import Final

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from shared.host.errors import (
    IllegalMoveError,
    LockedError,
    TooManyExportsError,
    UnknownVmError,
    UnusableRecordError,
)
from shared.host.logs import NOTICE
from shared.site import Site
from shared.state.records import VmRecord
from shared.state.rules import claims, sightings
from shared.state.sessions.holding import Holding, holding
from shared.state.sessions.session import Session
from shared.state.states import Event
from shared.virtualbox.export_errors import VmRunsError
from worker import progress
from worker.backup import backup_order
from worker.backup.admission import Admission, PostponedError
from worker.backup.attempt import Attempt
from worker.backup.interruption import say_what_is_left
from worker.backup.looks import Looks
from worker.backup.window import Readiness
from worker.progress import Display
from worker.report import Report

log: Final = logging.getLogger(__name__)


def back_up(site: Site, report: Report, only: str | None, display: Display | None) -> None:
    """Backs up what waits, or the VM `only`, and notes in `report` what became of it.

    In a session of its own. See `worker.backup.worker.run`.
    """
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
        backup_order.note_postponed(self._site, self._session, self._postponed)

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
                self._postponed |= {each.key: Readiness(backup_order.NO_SLOT) for each in waiting}
        return running

    def _next(self, running: list[str]) -> list[VmRecord]:
        """The VMs that wait and were not looked at yet in this round."""
        self._session.check()
        return [
            record
            for record in backup_order.waiting(
                self._site, self._site.database.head().contents, self._only
            )
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
            return backup_order.wait_for_slot(self._site, self._session, key)
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
