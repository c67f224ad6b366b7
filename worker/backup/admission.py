"""Whether a backup may begin now: its window is open, its VM may be stopped, and its copy has room.

Asked before a VM is claimed, so that one that waits costs no commit, and again (the `judge_`
functions) when it is claimed and all else is settled, just before anything is done to it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from shared.copies import catalogue
from shared.copies.catalogue import Catalogue
from shared.copies.space_needed import check_room, coarse
from shared.host.configuration import Nas, VmPolicy
from shared.host.errors import NasError, VmBackupError
from shared.nas.mount import check_nas
from shared.site import Site
from shared.state.records import VmRecord
from shared.state.rules import outages
from shared.virtualbox.inventory import Machine
from shared.virtualbox.power import STUCK
from worker.backup.looks import Looks
from worker.backup.room import needed_on_nas, source_bytes
from worker.backup.window import Readiness, expected_seconds, judge

NOW: Final = Readiness()
#: For so long a look at the NAS holds for all VMs that wait; it is looked at again for each that is
#: claimed.
_LOOK_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Look:
    """The bytes that are free on the NAS, at one moment."""

    free: int
    until: float


class Admission:
    """Whether the backup of a VM that is not claimed yet may begin.

    `forced`: its operator wants it now, however often it was stopped for nothing. `read_only`:
    nothing is to be written, not even a probe.
    """

    def __init__(self, site: Site, looks: Looks, *, forced: bool, read_only: bool = False) -> None:
        self._site, self._looks = site, looks
        self._forced, self._read_only = forced, read_only
        self._seen: _Look | None = None

    def verdict(self, record: VmRecord) -> Readiness:
        """Whether the VM may have its backup now. Outside of its window only the clock is asked.

        Raises `NasError` if the NAS as a whole cannot be used.
        """
        policy, now = self._site.policy(record), self._site.clock.now()
        verdict = judge_window(policy, now)
        if verdict.reason:
            return verdict
        free, machine = self._free(), self._machine(record)
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
        if not self._forced:
            verdicts.append(judge_outage(record, policy, now, runs=machine.running))
        verdicts.append(
            judge_room(machine, policy, there, free + left_over, self._site.configuration.nas)
        )
        return next((verdict for verdict in verdicts if verdict.reason), NOW)

    def _free(self) -> int:
        now = self._site.clock.monotonic()
        if self._seen is None or now >= self._seen.until:
            free = check_nas(self._site.configuration.nas, write=not self._read_only).free
            self._seen = _Look(free, now + _LOOK_SECONDS)
        return self._seen.free

    def _machine(self, record: VmRecord) -> Machine | None:
        try:
            return self._looks.now(record.uuid)
        except VmBackupError:
            return None

    def left_alone(self, record: VmRecord) -> bool:
        """Whether the VM runs, and its policy is to leave it alone then.

        If VirtualBox cannot say, its backup will fail and say why.
        """
        if self._site.policy(record).running != "defer":
            return False
        try:
            machine = self._looks.recent(record.uuid)
            if machine is not None and machine.state:
                return not machine.stopped and machine.state not in STUCK
            info = self._site.vboxmanage.info(record.uuid)
        except VmBackupError:
            return False
        return not info.stopped and info.state not in STUCK


class PostponedError(VmBackupError):
    """A backup has to wait, and nothing was done to its VM."""

    def __init__(self, verdict: Readiness) -> None:
        super().__init__(verdict.details or verdict.reason)
        self.verdict = verdict


def judge_window(policy: VmPolicy, now: datetime) -> Readiness:
    """Whether the window is open. Nothing but the clock is asked."""
    return judge(policy.window, now)


def judge_length(policy: VmPolicy, machine: Machine, there: Catalogue, now: datetime) -> Readiness:
    """Whether the window is open for long enough. `there`: the copies that the VM has."""
    if not policy.window or there.latest_good is None:
        return judge(policy.window, now)
    return judge(
        policy.window, now, expected_seconds(source_bytes(machine), there.latest_good.sidecar)
    )


def judge_outage(record: VmRecord, policy: VmPolicy, now: datetime, *, runs: bool) -> Readiness:
    """Whether the VM may be stopped for its backup, should it have to be."""
    until = outages.waits_until(record, now) if runs and policy.running in outages.OUTAGES else ""
    if not until:
        return NOW
    failed = f"{record.outages_failed} failed backup{'s' if record.outages_failed > 1 else ''}"
    return Readiness(
        f"waits until {until[:10]} {until[11:16]}Z before it is stopped again ({failed})"
    )


def judge_room(
    machine: Machine, policy: VmPolicy, there: Catalogue, free: int, nas: Nas
) -> Readiness:
    """Whether the copy fits. `free`: bytes on the NAS."""
    needed = needed_on_nas(machine, policy, there)
    try:
        check_room(free, needed, nas.reserve)
    except NasError as error:
        reason = f"waits for room on the NAS: it needs about {coarse(needed)}"
        return Readiness(reason, nas=True, details=f"{error.message} ({error.hint})")
    return NOW
