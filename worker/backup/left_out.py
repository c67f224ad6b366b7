"""What an `.ova` leaves out of a VM: kept beside it where it is a file, and said where it is not.

Measured with VirtualBox 7.2.22: an `.ova` has no memory of a saved VM, no snapshots, and the
firmware's variables only of an EFI VM. The state of a TPM is in the same `.nvram` file as those: of
a VM with BIOS and TPM it is not in the `.ova`.
"""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.copies import side_files
from shared.copies.names import Suffix, partial_name
from shared.copies.sidecar import SideFile
from shared.host.configuration import VmPolicy
from shared.host.errors import CopyError
from shared.site import Site
from shared.state.sessions.session import Session
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import SettingsError, read_file
from worker.backup.method import Subject
from worker.backup.room import state_file

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of one copy go.

    A directory, a stamp, and the claim under which they are partial.
    """

    directory: Path
    stamp: str
    claim: int

    def partial(self, suffix: Suffix) -> str:
        """The name of a file that is being written."""
        return partial_name(self.stamp, self.claim, suffix)


class Beside:
    """The side files of one copy.

    Made before the VM is touched, `keep` called after the export and before the VM is let go.
    """

    def __init__(self, site: Site, session: Session, policy: VmPolicy, machine: Machine) -> None:
        self._site, self._session, self._policy, self._machine = site, session, policy, machine
        self._settings = self._read(machine)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What of the VM is in none of the files, in words."""
        said = []
        if self._machine.settings and self._machine.settings.snapshot:
            said.append("its snapshots: the copy has the VM's current state only")
        if state_file(self._machine) and self._policy.saved == "warn":
            said.append('its saved memory (saved = "warn")')
        return tuple(said)

    def keep(self, subject: Subject, place: Place) -> dict[Suffix, SideFile]:
        """Writes them under partial names. Raises `CopyError`, `NasError`, `LockLostError`."""
        self._session.doing.phase = "side files"
        if subject.vm_name is None:  # of a clone only its original's settings mean anything
            self._settings = self._read(subject.machine)
        kept = {"vbox": self._keep(place, "vbox", [self._settings])}
        if memory := self._state_file(subject.machine):
            kept["sav"] = self._keep(place, "sav", side_files.pieces_of(Path(memory)))
        if os.path.exists(subject.machine.nvram_file):
            members = side_files.member_names(place.directory, place.partial("ova"))
            if not any(member.endswith(".nvram") for member in members):
                kept["nvram"] = self._keep(
                    place, "nvram", side_files.pieces_of(Path(subject.machine.nvram_file))
                )
        return kept  # type: ignore[return-value]

    def _keep(self, place: Place, suffix: Suffix, pieces: Iterable[bytes]) -> SideFile:
        return side_files.keep(
            self._site.files,
            place.directory,
            place.partial(suffix),
            pieces,
            check=self._session.check,
        )

    def _read(self, machine: Machine) -> bytes:
        try:
            return read_file(machine.settings_file, self._site.clock.sleep)
        except SettingsError as error:
            raise CopyError(f"its settings cannot be kept: {error}") from None

    def _state_file(self, machine: Machine) -> str:
        return state_file(machine) if self._policy.saved == "keep" else ""
