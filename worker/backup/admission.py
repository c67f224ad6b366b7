"""Whether a VM that waits for its backup may have it now.

Its window is open, there is room for its copy, and a place on the NAS.

What has to wait is no failure: it is logged, and noted in the database, where `vmbackup-admin
status` shows it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.copies import catalogue
from shared.host.errors import VmBackupError
from shared.nas.mount import check_nas
from shared.site import Site
from shared.state.records import Contents, VmRecord
from shared.state.rules import changes, slots
from shared.state.sessions.session import Session
from shared.virtualbox.inventory import Machine
from worker.backup.readiness import NOW, judge_length, judge_outage, judge_room, judge_window
from worker.backup.window import Verdict

log: Final = logging.getLogger(__name__)

#: What is noted of VMs for which there is no place; without figures, so that it does not change
#: while they wait.
NO_PLACE: Final = "waits for a place: as many exports run on the NAS as are allowed"
#: For so long a look at host and NAS holds for all VMs that wait; each is looked at again when it
#: is claimed.
_LOOK_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Look:
    """The VMs of this host and the bytes that are free on the NAS, at one moment."""

    machines: Mapping[str, Machine]
    free: int
    until: float


class Judge:
    """Says of one VM after the other whether its backup may begin now, in the eyes of a host that has not claimed it.

    `insists`: its operator wants it now, however often it was stopped for nothing. `looks`: nothing
    is to be written, not even a probe.
    """

    def __init__(self, site: Site, *, insists: bool, looks: bool = False) -> None:
        self._site, self._insists, self._looks = site, insists, looks
        self._seen: _Look | None = None

    def judge(self, record: VmRecord) -> Verdict:
        """Outside of its window nothing but the clock is asked.

        Raises `NasError` if the NAS as a whole cannot be used.
        """
        policy, now = self._site.configuration.policy_for(record.name), self._site.clock.now()
        verdict = judge_window(policy, now)
        if verdict.reason:
            return verdict
        look = self._look()
        machine = look.machines.get(record.uuid)
        if machine is None or not machine.accessible:
            return NOW  # its backup will fail, and say why
        if machine.running and policy.running == "defer":
            return NOW  # it is left alone in any case
        try:
            there = catalogue.read(self._site.directory(record), record.uuid)
        except VmBackupError:
            return NOW
        left_over = sum(
            partial.size for partial in there.partials
        )  # nobody works on it: that is cleared away before its export
        verdicts = [judge_length(policy, machine, there, now)]
        if not self._insists:
            verdicts.append(judge_outage(record, policy, now, runs=machine.running))
        verdicts.append(
            judge_room(machine, policy, there, look.free + left_over, self._site.configuration.nas)
        )
        return next((verdict for verdict in verdicts if verdict.reason), NOW)

    def _look(self) -> _Look:
        now = self._site.clock.monotonic()
        if self._seen is None or now >= self._seen.until:
            free = check_nas(self._site.configuration.nas, write=not self._looks).free
            self._seen = _Look(self._machines(), free, now + _LOOK_SECONDS)
        return self._seen

    def _machines(self) -> Mapping[str, Machine]:
        try:
            return self._site.inventory()
        except VmBackupError:
            return {}


class Admission:
    """Admits the VMs of one run of a backup worker.

    `postponed` are those that were refused, with the reason.
    """

    def __init__(self, site: Site, session: Session, *, insists: bool = False) -> None:
        self._site, self._session = site, session
        self._judge = Judge(site, insists=insists)
        self.postponed: dict[str, Verdict] = {}

    def refuses(self, record: VmRecord) -> bool:
        """Whether the VM has to wait; if so it is postponed to a later tick.

        Raises `NasError` if the NAS as a whole cannot be used.
        """
        verdict = self._judge.judge(record)
        if verdict.reason:
            self.postponed[record.key] = verdict
        return bool(verdict.reason)

    @property
    def limit(self) -> int:
        """How many exports this host allows on the whole NAS; 0: as many as like."""
        return self._site.configuration.backup.exports_on_nas

    def wait_for_place(self, record: VmRecord) -> bool:
        """Gets in line and waits, for a bounded time, until it is this VM's turn.

        Answers whether it is.

        The line is in the database: nobody who comes later goes first. If its time is over, the VM
        keeps its place in the line, and who is behind it no longer waits for it.
        """
        clock, backup, key = self._site.clock, self._site.configuration.backup, record.key
        self._line_up(key)
        log.info(
            "waiting up to %g s for a place on the NAS", backup.retry_seconds, extra={"vm": key}
        )
        end = clock.monotonic() + backup.retry_seconds
        while not slots.has_place(self._site.database.head().contents, key, self.limit):
            if clock.monotonic() >= end:
                self._session.commit(
                    lambda found: slots.leave(found, key, self._session.id),
                    f"{key} leaves its place to others",
                )
                return False
            clock.sleep(
                backup.retry_interval_seconds / 2 + clock.jitter(backup.retry_interval_seconds)
            )
            self._session.check()
        return True

    def no_place(self, records: list[VmRecord]) -> None:
        """Postpones these VMs to a later tick, because the time to wait for a place is over."""
        self.postponed |= {record.key: Verdict(NO_PLACE) for record in records}

    def note(self) -> None:
        """Says which VMs were postponed, and notes why. Commits only what is new."""
        for key, verdict in self.postponed.items():
            level = logging.ERROR if verdict.never or verdict.nas else logging.INFO
            log.log(level, "not now: %s", verdict.details or verdict.reason, extra={"vm": key})
        self._note({key: verdict.reason for key, verdict in self.postponed.items()})

    def _line_up(self, key: str) -> None:
        def change(contents: Contents) -> Contents:
            return slots.queue(
                changes.note_waiting(contents, {key: NO_PLACE}), key, self._session.id
            )

        self._session.commit(change, f"{key} {NO_PLACE}")

    def _note(self, reasons: dict[str, str]) -> None:
        contents = self._site.database.head().contents
        if changes.note_waiting(contents, reasons) != contents:
            text = "; ".join(f"{key} {reason}" for key, reason in reasons.items())
            self._session.commit(lambda found: changes.note_waiting(found, reasons), text)
