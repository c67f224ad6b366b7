"""Whether a backup may begin now, or has to wait.

For its window, until its VM may be stopped again, for room on the NAS.

Asked before a VM is claimed, so that one that waits costs no commit, and again when it is claimed
and all else is settled, just before anything is done to it.
"""

from datetime import datetime
from typing import Final

from shared.copies.catalogue import Catalogue
from shared.copies.space import check_room, coarse
from shared.host.configuration import Nas, VmPolicy
from shared.host.errors import NasError, VmBackupError
from shared.state.records import VmRecord
from shared.state.rules import outages
from shared.virtualbox.inventory import Machine
from worker.backup.room import needed_on_nas, source_bytes
from worker.backup.window import Verdict, expected_seconds, judge

NOW: Final = Verdict()


class PostponedError(VmBackupError):
    """A backup has to wait, and nothing was done to its VM."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.details or verdict.reason)
        self.verdict = verdict


def judge_window(policy: VmPolicy, now: datetime) -> Verdict:
    """Whether the window is open. Nothing but the clock is asked."""
    return judge(policy.window, now)


def judge_length(policy: VmPolicy, machine: Machine, there: Catalogue, now: datetime) -> Verdict:
    """Whether the window is open for long enough. `there`: the copies that the VM has."""
    if not policy.window or there.latest_good is None:
        return judge(policy.window, now)
    return judge(
        policy.window, now, expected_seconds(source_bytes(machine), there.latest_good.sidecar)
    )


def judge_outage(record: VmRecord, policy: VmPolicy, now: datetime, *, runs: bool) -> Verdict:
    """Whether the VM may be stopped for its backup, should it have to be."""
    until = outages.waits_until(record, now) if runs and policy.running in outages.OUTAGES else ""
    if not until:
        return NOW
    failed = f"{record.outages_failed} failed backup{'s' if record.outages_failed > 1 else ''}"
    return Verdict(
        f"waits until {until[:10]} {until[11:16]}Z before it is stopped again ({failed})"
    )


def judge_room(
    machine: Machine, policy: VmPolicy, there: Catalogue, free: int, nas: Nas
) -> Verdict:
    """Whether the copy fits. `free`: bytes on the NAS."""
    needed = needed_on_nas(machine, policy, there)
    try:
        check_room(free, needed, nas.reserve)
    except NasError as error:
        reason = f"waits for room on the NAS: it needs about {coarse(needed)}"
        return Verdict(reason, nas=True, details=f"{error.message} ({error.hint})")
    return NOW
