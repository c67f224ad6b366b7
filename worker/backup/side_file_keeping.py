"""Keeping what an `.ova` leaves out of a VM, in side files.

Measured with VirtualBox 7.2.22: an `.ova` has no memory of a saved VM, no snapshots, and the
firmware's variables only of an EFI VM. The state of a TPM is in the same `.nvram` file as those: of
a VM with BIOS and TPM it is not in the `.ova`.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from shared.copies.names import Suffix
from shared.copies.side_files import keep as keep_side_file
from shared.copies.side_files import member_names, pieces_of
from shared.copies.sidecar_fields import SideFile
from shared.host.errors import CopyError
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import SettingsError, read_file
from worker.backup.freeze_choice import Pieces
from worker.backup.left_out import data_left_out, parts_left_out
from worker.backup.room import state_file
from worker.backup.work import Subject, Target, Work

if TYPE_CHECKING:
    from shared.export.freezing import CloneFile


class SideFiles:
    """The side files of one copy.

    Made before the VM is touched, `keep` called after the export and before the VM is let go.
    """

    def __init__(self, work: Work, machine: Machine) -> None:
        self._work, self._machine = work, machine
        self._settings = self._read(machine)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What of the VM is in none of the files, in words."""
        return (*self.data_left_out, *parts_left_out(self._machine))

    @property
    def data_left_out(self) -> tuple[str, ...]:
        """What of that its user would miss: worth a warning each time."""
        return data_left_out(self._machine, self._work.policy)

    def freeze(self, machine: Machine, clone: "CloneFile") -> Pieces:
        """The VM's files as they are now, for `keep`; the saved memory, if it is kept, is cloned.

        Raises `NotFrozenError` if that cannot be, `CopyError`.
        """
        found = self._found(machine, lambda memory: pieces_of(clone(memory)))
        return {**found, "nvram": list(found["nvram"])} if "nvram" in found else found

    def keep(
        self, subject: Subject, target: Target, frozen: Pieces | None
    ) -> dict[Suffix, SideFile]:
        """Writes them under partial names: those that were `frozen` with the disks, else as now.

        Raises `CopyError`, `NasError`, `LockLostError`.
        """
        self._work.session.doing.phase = "side files"
        found = self._found(subject.machine, pieces_of) if frozen is None else dict(frozen)
        if subject.vm_name is not None:  # of a clone only its original's settings mean anything
            found["vbox"] = [self._settings]
        if "nvram" in found:
            members = member_names(target.directory, target.partial("ova"))
            if any(member.endswith(".nvram") for member in members):
                del found["nvram"]
        return {suffix: self._keep(target, suffix, pieces) for suffix, pieces in found.items()}

    def _found(self, machine: Machine, memory: Callable[[Path], Iterable[bytes]]) -> Pieces:
        """The files that there are now; the saved one, which may be large, as `memory` has it."""
        found: Pieces = {"vbox": [self._read(machine)]}
        if state := self._state_file(machine):
            found["sav"] = memory(Path(state))
        if os.path.exists(machine.nvram_file):
            found["nvram"] = pieces_of(Path(machine.nvram_file))
        return found

    def _keep(self, target: Target, suffix: Suffix, pieces: Iterable[bytes]) -> SideFile:
        return keep_side_file(
            self._work.site.files,
            target.directory,
            target.partial(suffix),
            pieces,
            check=self._work.session.check,
            pace=self._work.site.pace(),
        )

    def _read(self, machine: Machine) -> bytes:
        try:
            return read_file(machine.settings_file, self._work.site.clock.sleep)
        except SettingsError as error:
            raise CopyError(f"its settings cannot be kept: {error}") from None

    def _state_file(self, machine: Machine) -> str:
        """Where the memory is that is to be kept; one that is gone is said to be left out."""
        memory = state_file(machine) if self._work.policy.saved == "keep" else ""
        return memory if memory and os.path.exists(memory) else ""
