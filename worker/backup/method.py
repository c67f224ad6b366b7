"""How a VM is brought into a state in which it can be exported: none needed, stopped, live, paused.

The method follows from the VM's policy and from whether it runs. A VM that is saved, shut down or
made a snapshot of for a backup that could not succeed has had its outage for nothing. So
`preflight` looks first whether it can be exported, whether there is room for its copy, and whether
this is the time for it.
"""

import logging
from typing import Final

from shared.copies.catalogue import Catalogue
from shared.copies.catalogue import read as read_catalogue
from shared.copies.partials import remove_partials
from shared.host.configuration import VmPolicy
from shared.host.logs import NOTICE
from shared.nas.mount import check_nas
from shared.nas.nas_errors import reported
from shared.state.records import Power
from shared.virtualbox.export_checks import (
    has_long_name,
    may_be_shared,
    refuse_long_name,
    refuse_unexportable,
    refuse_unfrozen,
    refuse_written_elsewhere,
    unfrozen_disk,
)
from shared.virtualbox.export_errors import ExportError, VmRunsError
from shared.virtualbox.fingerprint import Fingerprint, fingerprint_of
from shared.virtualbox.inventory import Machine
from shared.virtualbox.power import RUNNING, STUCK
from shared.virtualbox.usb_drives import filled_usb_drives, refuse_filled_usb_drive
from shared.virtualbox.vboxmanage_output import STOPPED
from worker.backup.admission import PostponedError, judge_length, judge_outage, judge_room
from worker.backup.engine_choice import require_engine
from worker.backup.fallback import Fallback
from worker.backup.live import Live
from worker.backup.paused import Paused, why_not_paused
from worker.backup.refused import refuse_same_again
from worker.backup.room import require_room_for_memory
from worker.backup.work import Method, Subject, Target, Work, put_back, unchanged

log: Final = logging.getLogger(__name__)


def choose_method(work: Work, machine: Machine) -> Method:
    """The method for a VM that was just looked at: as its policy says if it runs, as it is if not.

    Raises `VmRunsError` if it is to be left alone, `ExportError` if it neither runs nor stops by
    itself.

    One that is off, but cannot be exported under its name because that is too long, or with what
    is in a drive of it, is exported from a clone.
    """
    state, stopped = machine.state, machine.stopped
    if not state:  # all VMs were looked at
        info = work.site.vboxmanage.info(work.record.uuid)
        state, stopped = info.state, info.stopped
    if stopped:
        clone = why_clone(work.record.name, work.policy, machine, saved=state == "saved")
        return Live(work, state) if clone else AsItIs(work)
    if state in STUCK:
        meaning, remedy = STUCK[state]
        raise ExportError(f"{work.record.key} is {state}: {meaning}", hint=remedy)
    if state not in RUNNING or work.policy.running == "defer":
        held = ", and somebody has it open" if state in STOPPED else ""
        raise VmRunsError(f"{work.record.key} is {state}{held}")
    if work.policy.running == "pause":
        return _paused(work, machine, state)
    return Live(work, state) if work.policy.running == "live" else Stopped(work, state)


def _paused(work: Work, machine: Machine, state: str) -> Method:
    if reason := why_not_paused(work.site, work.policy, machine):
        log.log(NOTICE, "copied live, not paused: %s", reason, extra={"vm": work.record.key})
        return Live(work, state, reason)
    return Paused(work, state)


def why_clone(name: str, policy: VmPolicy, machine: Machine, *, saved: bool) -> str:
    """Why a VM that does not run is exported from a clone; empty: it is exported as it is.

    Because its name is too long, or so that its user can start it meanwhile or what is in a drive
    on a USB controller can be taken out, if that does no harm to its copy.
    """
    if saved:
        return ""
    if has_long_name(name):
        return "its name is too long for an export"
    if unfrozen_disk(machine) is not None:
        return ""
    if policy.live_when_stopped:
        return "live_when_stopped"
    return "something is in a drive on USB" if filled_usb_drives(machine) else ""


def preflight(
    work: Work,
    method: Method,
    machine: Machine,
    target: Target,
    fallback: Fallback,
    *,
    forced: bool,
) -> Catalogue:
    """Looks, before the VM is touched, for all that would make its backup fail, or wait.

    Returns the copies that the VM has. Nothing is done to it. `forced`: its operator wants it now,
    however often it was stopped for nothing. Raises `PostponedError` if it has to wait; `NasError`,
    `CopyError`, `VBoxManageError` that say why there can be no backup.
    """
    refuse_unexportable(machine)
    if may_be_shared(machine):
        refuse_written_elsewhere(machine, work.site.inventory().values())
    if isinstance(method, Live):
        refuse_unfrozen(machine)
    else:
        refuse_long_name(machine)
        refuse_filled_usb_drive(machine)
    require_engine(work.policy, machine, work.site.clock, fallback)
    free, copies = _require_directory(work, target)
    snapshot = isinstance(method, Live) and not isinstance(method, Paused)
    if machine.running and (snapshot or work.policy.running == "savestate"):
        require_room_for_memory(machine)  # a snapshot of a running VM has its memory, too
    now, policy = work.site.clock.now(), work.policy
    verdicts = [
        judge_room(machine, policy, copies, free, work.site.configuration.nas),
        judge_length(policy, machine, copies, now),
    ]
    if not forced:
        verdicts.append(judge_outage(work.record, policy, now, runs=isinstance(method, Stopped)))
    if not forced:
        refuse_same_again(work, machine, copies)
    for verdict in verdicts:
        if verdict.reason:
            raise PostponedError(verdict)
    return copies


def _require_directory(work: Work, target: Target) -> tuple[int, Catalogue]:
    """Makes sure that the NAS and the VM's directory are there and can be written.

    Returns the bytes that are free, and the copies in the directory. What earlier attempts left
    there is cleared away.
    """
    site = work.site
    free = check_nas(site.configuration.nas, write=True).free
    with reported(f"make the directory {target.directory}"):
        site.files.make_directory(target.directory)
    contents = site.database.head().contents
    live = {record.claim.number for record in contents.vms.values() if record.claim}
    live |= {record.publishing.claim for record in contents.vms.values() if record.publishing}
    removed = remove_partials(site.files, target.directory, live, contents.claims_granted)
    for name in removed:
        log.warning("removed %s, which an earlier attempt left", name, extra={"vm": work.held.key})
    if removed:
        free = check_nas(site.configuration.nas).free
    return free, read_catalogue(target.directory, work.record.uuid)


class AsItIs:
    """A VM that is off: nothing is done to it, and it must not change while it is exported."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._before: Fingerprint | None = None

    def prepare(self) -> Subject:
        """See `Method.prepare`."""
        machine = self._work.seen()
        self._before = fingerprint_of(machine)
        if self._before.state == "saved" and self._work.policy.saved == "warn":
            log.warning(
                "its saved state (the contents of its memory) is not in the copy",
                extra={"vm": self._work.record.key},
            )
        return Subject(machine)

    def conclude(self) -> Fingerprint:
        """See `Method.conclude`."""
        return unchanged(self._before, self._work.machine())

    def restore(self) -> None:
        """See `Method.restore`: nothing was done."""


class Stopped:
    """A running VM that is saved or shut down for its export, and started again afterwards."""

    def __init__(self, work: Work, found: str) -> None:
        self._work, self._found = work, found
        self._power: Power | None = None
        self._before: Fingerprint | None = None

    def prepare(self) -> Subject:
        """See `Method.prepare`."""
        work = self._work
        power = Power(work.policy.running, self._found, work.held.claim.number)  # type: ignore[arg-type]
        self._power = work.note_power(power)
        work.session.doing.phase = work.policy.running
        if work.policy.running == "savestate":
            work.switch.save(work.record.uuid)
        else:
            self._shut_down(work)
        machine = work.machine()
        self._before = fingerprint_of(machine)
        return Subject(machine)

    def _shut_down(self, work: Work) -> None:
        what = "waiting for it to shut down, %g s at most"
        log.log(NOTICE, what, work.policy.shutdown_seconds, extra={"vm": work.record.key})
        try:
            work.switch.shut_down(
                work.record.uuid, work.policy.shutdown_seconds, pull_plug=work.policy.pull_plug
            )
        except VmRunsError:
            # It may still obey the button: the note stays until a later tick finds it running, or
            # finds it off and starts it.
            self._power = None
            raise

    def conclude(self) -> Fingerprint:
        """See `Method.conclude`."""
        fingerprint = unchanged(self._before, self._work.machine())
        self.restore()
        return fingerprint

    def restore(self) -> None:
        """See `Method.restore`."""
        if self._power is not None:
            put_back(self._work, self._power)
            self._power = None
