"""Exporting a VM, running or not, from a linked clone of a snapshot."""

import os
import uuid
from dataclasses import replace
from typing import Literal

from shared.host.errors import VBoxManageError
from shared.state.records import Power
from shared.virtualbox import scratch
from shared.virtualbox.clone_parts import Made
from shared.virtualbox.fingerprint import VERSION, Fingerprint, differences, fingerprint_of
from shared.virtualbox.inventory import Machine
from shared.virtualbox.power import RUNNING
from shared.virtualbox.usb_drives import eject_from_clone
from worker.backup import undo
from worker.backup.work import Subject, Work, put_back


class Live:
    """A VM, running or not, that is exported from a linked clone of a snapshot.

    Its user may start and stop it meanwhile.
    """

    def __init__(self, work: Work, found: str, instead: str = "") -> None:
        """`instead`: why it is not paused, which it was to be; empty: it was not to be."""
        self._work, self._found, self.instead = work, found, instead
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
        """Makes snapshot and clone."""
        clones = undo.clones_of(work.site)
        made = clones.take(machine, self._begin(machine, "live"))
        if self._power is not None:
            self._power = work.note_power(replace(self._power, snapshot=made.snapshot))
        clones.clone(machine, made)
        clone = self._listed(made)
        if eject_from_clone(work.site.vboxmanage, clone):
            clone = self._listed(made)
        return clone

    def _begin(self, machine: Machine, method: Literal["live", "pause"]) -> Made:
        """Makes the folder of the clone: before each step what a crash may leave is committed."""
        work = self._work
        clones = undo.clones_of(work.site)
        token = scratch.new_token()
        power = Power(method, self._found, work.held.claim.number, token, str(uuid.uuid4()))
        power = replace(
            power, folder=os.path.join(os.path.dirname(machine.settings_file), power.tag)
        )
        made = undo.made_by(power)
        clones.refuse_taken(machine, made, work.site.inventory())
        self._power = work.note_power(power)
        try:
            clones.make_folder(made)
        except (
            FileExistsError
        ):  # it came up since the look: what is in it is not ours, so nothing may be undone
            self._power = None
            work.note_restored(power)
            raise VBoxManageError(
                f"{made.folder} is there already",
                hint="nothing was done; the next tick takes another name",
            ) from None
        return made

    def _listed(self, made: Made) -> Machine:
        clone = self._work.site.inventory().get(made.clone)
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
