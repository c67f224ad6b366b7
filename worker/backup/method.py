"""How a VM is brought into a state in which it can be exported, and back.

As it is, saved, shut down, or live.

Before a VM is touched, what must be undone is committed (`VmRecord.power`). Undoing it is
`put_back`, which may be done by any worker of the VM's host, as often as it takes.
"""

import logging
import os
import uuid
from dataclasses import dataclass, replace
from typing import Final, Protocol

from shared.host.configuration import VmPolicy
from shared.host.errors import CopyError, LockLostError, VBoxManageError, VmBackupError
from shared.site import Site
from shared.state.records import Power, VmRecord
from shared.state.rules import changes
from shared.state.sessions.holding import Holding
from shared.state.sessions.session import Session
from shared.virtualbox import scratch
from shared.virtualbox.export import VmRunsError
from shared.virtualbox.export_checks import has_long_name
from shared.virtualbox.fingerprint import VERSION, Fingerprint, differences, fingerprint_of
from shared.virtualbox.inventory import Machine
from shared.virtualbox.power import RUNNING, PowerSwitch
from worker.backup import undo

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is exported: the VM itself, or a clone that is called `vm_name` in the copy."""

    machine: Machine
    vm_name: str | None = None


class Method(Protocol):
    """One way to export a VM.

    `prepare`, then the export, then `conclude`; `restore` whatever happens.
    """

    def prepare(self) -> Subject:
        """Makes the VM ready. Raises `VmRunsError` if it runs and is to be left alone."""

    def conclude(self) -> Fingerprint:
        """After the export: the fingerprint of what was exported.

        Raises `CopyError` if the VM changed meanwhile. Then undoes all.
        """

    def restore(self) -> None:
        """Undoes what `prepare` did, if that is not done yet."""


@dataclass
class Work:
    """What every method works with."""

    site: Site
    held: Holding
    policy: VmPolicy

    @property
    def record(self) -> VmRecord:
        """The VM, as it was when it was claimed."""
        return self.held.record

    @property
    def session(self) -> Session:
        """The session that holds it."""
        return self.held.session

    def machine(self) -> Machine:
        """The VM as it is now. Raises `VBoxManageError` if it cannot be used."""
        machine = self.site.inventory().get(self.record.uuid)
        if machine is None:
            raise VBoxManageError(
                f"{self.record.key} is not registered on this host any more",
                hint="vmfind will show it as missing",
            )
        if not machine.accessible:
            raise VBoxManageError(f"VirtualBox cannot use {self.record.key}: {machine.reason}")
        return machine

    @property
    def switch(self) -> PowerSwitch:
        """The VMs' power buttons."""
        return PowerSwitch(self.site.vboxmanage, self.site.clock)

    def touch(self, power: Power) -> Power:
        """Commits what is about to be done to the VM, or what is known of it now."""
        key, own = self.held.key, self.held.claim
        self.held.commit(
            lambda contents: changes.touch(contents, key, own, power),
            f"{power.method} {key}, which is {power.found}",
        )
        return power

    def untouch(self, power: Power) -> None:
        """Commits that nothing is left of it."""
        key, own = self.held.key, self.held.claim
        self.held.commit(
            lambda contents: changes.untouched(contents, key, own), f"{key} is {power.found} again"
        )


def choose(work: Work) -> Method:
    """The method for a VM: as its policy says if it runs, as it is if not.

    Raises `VmRunsError` if it is to be left alone.

    One that is off, but cannot be exported under its name because that is too long, is exported
    from a clone.
    """
    state = work.site.vboxmanage.info(work.record.uuid)
    if state.stopped:
        clone = (
            work.policy.live_when_stopped or has_long_name(work.record.name)
        ) and state.state != "saved"
        return Live(work, state.state) if clone else AsItIs(work)
    if state.state not in RUNNING or work.policy.running == "defer":
        raise VmRunsError(f"{work.record.key} is {state.state}")
    return Live(work, state.state) if work.policy.running == "live" else Stopped(work, state.state)


class AsItIs:
    """A VM that is off: nothing is done to it, and it must not change while it is exported."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._before: Fingerprint | None = None

    def prepare(self) -> Subject:
        """See `Method.prepare`."""
        machine = self._work.machine()
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


def unchanged(before: Fingerprint | None, machine: Machine) -> Fingerprint:
    """`before`, if the VM is still that. Raises `CopyError` if it is not."""
    after = fingerprint_of(machine)
    if before is None:
        raise CopyError("the VM was not looked at before the export")
    if changed := differences(before, after):
        raise CopyError(
            f"the VM changed during the export, so the copy does not count: {', '.join(changed)}"
        )
    return before


class Stopped:
    """A running VM that is saved or shut down for its export, and started again afterwards."""

    def __init__(self, work: Work, found: str) -> None:
        self._work, self._found = work, found
        self._power: Power | None = None
        self._before: Fingerprint | None = None

    def prepare(self) -> Subject:
        """See `Method.prepare`."""
        work = self._work
        self._power = work.touch(Power(work.policy.running, self._found, work.held.claim.number))  # type: ignore[arg-type]
        work.session.doing.phase = work.policy.running
        if work.policy.running == "savestate":
            work.switch.save(work.record.uuid)
        else:
            self._shut_down(work)
        machine = work.machine()
        self._before = fingerprint_of(machine)
        return Subject(machine)

    def _shut_down(self, work: Work) -> None:
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


class Live:
    """A VM, running or not, that is exported from a linked clone of a snapshot.

    Its user may start and stop it meanwhile.
    """

    def __init__(self, work: Work, found: str) -> None:
        self._work, self._found = work, found
        self._power: Power | None = None
        self._before: Fingerprint | None = None
        self._frozen: Fingerprint | None = None

    def prepare(self) -> Subject:
        """See `Method.prepare`."""
        work = self._work
        machine = work.machine()
        if self._found not in RUNNING:
            self._before = fingerprint_of(machine)
        work.session.doing.phase = "snapshot"
        clone = self._make(work, machine)
        if self._before is not None:
            self._frozen = fingerprint_of(work.machine())
        return Subject(clone, machine.name)

    def _make(self, work: Work, machine: Machine) -> Machine:
        """Makes snapshot and clone.

        Before each step it is committed what a crash in the middle of it may leave.
        """
        clones = undo.clones_of(work.site)
        token = scratch.new_token()
        power = Power("live", self._found, work.held.claim.number, token, str(uuid.uuid4()))
        power = replace(
            power, folder=os.path.join(os.path.dirname(machine.settings_file), power.tag)
        )
        made = undo.made_by(power)
        clones.refuse_taken(machine, made, work.site.inventory())
        self._power = work.touch(power)
        try:
            clones.make_folder(made)
        except (
            FileExistsError
        ):  # it came up since the look: what is in it is not ours, so nothing may be undone
            self._power = None
            work.untouch(power)
            raise VBoxManageError(
                f"{made.folder} is there already",
                hint="nothing was done; the next tick takes another name",
            ) from None
        made = clones.take(machine, made)
        self._power = power = work.touch(replace(power, snapshot=made.snapshot))
        clones.clone(machine, made)
        clone = work.site.inventory().get(made.clone)
        if clone is None:
            raise VBoxManageError(f"VirtualBox made the clone {made.name}, but does not list it")
        return clone

    def conclude(self) -> Fingerprint:
        """See `Method.conclude`.

        A VM that ran is in use; one that was off is if anybody but ourselves touched it meanwhile.
        """
        used = self._frozen is None or bool(
            differences(self._frozen, fingerprint_of(self._work.machine()))
        )
        self.restore()
        machine = self._work.machine()
        if used or machine.running:
            return self._before or Fingerprint(version=VERSION, state="running")
        return fingerprint_of(
            machine
        )  # merging the snapshot has changed its disks: that is how it looks now, unused

    def restore(self) -> None:
        """See `Method.restore`."""
        if self._power is not None:
            put_back(self._work, self._power)
            self._power = None


def put_back(work: Work, power: Power) -> None:
    """Brings the VM back to how it was found, and commits that. May be repeated.

    Raises `VmBackupError` if VirtualBox does not let us.
    """
    work.session.doing.phase = f"undo {power.method}"
    if power.method == "live":
        undo.undo_live(work.site, work.record, power)
    else:
        work.switch.bring_back(work.record.uuid, power.found)
    work.untouch(power)


def put_back_safely(method: Method, key: str) -> None:
    """Undoes what a failed or interrupted backup did.

    What cannot be undone now stays noted, and the next database worker does it.
    """
    try:
        method.restore()
    except LockLostError:
        log.warning(
            "this worker was displaced: another one brings the VM back to its state",
            extra={"vm": key},
        )
    except VmBackupError as error:
        log.error(  # noqa: TRY400
            "the VM is not back in its state yet: %s; the next tick tries again",
            error.message,
            extra={"vm": key},
        )
