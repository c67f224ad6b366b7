"""Whether a VM that waits for its backup may have it now: its window is open long enough, and there is a place on the NAS.

What has to wait is no failure: it is logged, and noted in the database, where `vmbackup-admin status` shows it.
"""

import logging
from pathlib import Path
from typing import Final

from shared.copies import catalogue
from shared.copies.space import allocated
from shared.errors import VmBackupError
from shared.site import Site
from shared.statedb import changes, places
from shared.statedb.records import Contents, VmRecord
from shared.statedb.session import Session
from shared.virtualbox.inventory import files_of
from worker.window import Verdict, expected_seconds, judge

log: Final = logging.getLogger(__name__)

#: What is noted of VMs for which there is no place; without figures, so that it does not change while they wait.
NO_PLACE: Final = "waits for a place: as many exports run on the NAS as are allowed"


def judge_window(site: Site, record: VmRecord) -> Verdict:
    """Whether the VM's window lets its export start now. Outside of the window nothing but the clock is asked."""
    window, now = site.configuration.policy_for(record.name).window, site.clock.now()
    verdict = judge(window, now)
    if verdict.reason or not window:
        return verdict
    try:
        return judge(window, now, _expected_seconds(site, record))
    except VmBackupError:
        return verdict  # its backup will fail, and say why


def _expected_seconds(site: Site, record: VmRecord) -> float | None:
    latest = catalogue.read(site.directory(record)).latest_good
    machine = site.inventory().get(record.uuid)
    if latest is None or machine is None:
        return None
    return expected_seconds(allocated(Path(path) for image in machine.images for path in files_of(image)), latest.sidecar)


class Admission:
    """Admits the VMs of one run of a backup worker. `postponed` are those that were refused, with the reason."""

    def __init__(self, site: Site, session: Session) -> None:
        self._site, self._session = site, session
        self.postponed: dict[str, Verdict] = {}

    def refuses(self, record: VmRecord) -> bool:
        """Whether the VM has to wait for its window; if so it is postponed to a later tick."""
        verdict = judge_window(self._site, record)
        if verdict.reason:
            self.postponed[record.key] = verdict
        return bool(verdict.reason)

    @property
    def limit(self) -> int:
        """How many exports this host allows on the whole NAS; 0: as many as like."""
        return self._site.configuration.backup.exports_on_nas

    def wait_for_place(self, record: VmRecord) -> bool:
        """Gets in line and waits, for a bounded time, until it is this VM's turn; answers whether it is.

        The line is in the database: nobody who comes later goes first. If its time is over, the VM keeps its place in the line, and who is
        behind it no longer waits for it.
        """
        clock, backup, key = self._site.clock, self._site.configuration.backup, record.key
        self._line_up(key)
        log.info("waiting up to %g s for a place on the NAS", backup.retry_seconds, extra={"vm": key})
        end = clock.monotonic() + backup.retry_seconds
        while not places.has_place(self._site.database.head().contents, key, self.limit):
            if clock.monotonic() >= end:
                self._session.commit(lambda found: places.leave(found, key, self._session.id), f"{key} leaves its place to others")
                return False
            clock.sleep(backup.retry_interval_seconds / 2 + clock.jitter(backup.retry_interval_seconds))
            self._session.check()
        return True

    def no_place(self, records: list[VmRecord]) -> None:
        """Postpones these VMs to a later tick, because the time to wait for a place is over."""
        self.postponed |= {record.key: Verdict(NO_PLACE) for record in records}

    def note(self) -> None:
        """Says which VMs were postponed, and notes why. Commits only what is new."""
        for key, verdict in self.postponed.items():
            log.log(logging.ERROR if verdict.never else logging.INFO, "not now: %s", verdict.reason, extra={"vm": key})
        self._note({key: verdict.reason for key, verdict in self.postponed.items()})

    def _line_up(self, key: str) -> None:
        def change(contents: Contents) -> Contents:
            return places.queue(changes.note_waiting(contents, {key: NO_PLACE}), key, self._session.id)

        self._session.commit(change, f"{key} {NO_PLACE}")

    def _note(self, reasons: dict[str, str]) -> None:
        contents = self._site.database.head().contents
        if changes.note_waiting(contents, reasons) != contents:
            text = "; ".join(f"{key} {reason}" for key, reason in reasons.items())
            self._session.commit(lambda found: changes.note_waiting(found, reasons), text)
