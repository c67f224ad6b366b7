"""Exporting a VM that runs from clones of its disks, which are made while it stands still.

Nothing is done to the VM but a pause: no snapshot is made, and none has to be merged. Its clone is
a VM of its own, with reflink clones of its images, in a folder that is known and undone like that
of a live backup. Where that is not possible, or fails, the VM is copied live.
"""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shared.frozen.not_frozen import NotFrozenError
from shared.frozen.pausing import flush, require_clonable, require_quick
from shared.frozen.store import RoomLimit
from shared.host.configuration import VmPolicy
from shared.host.errors import DiskImageError, VBoxManageError
from shared.host.logs import NOTICE
from shared.site import Site
from shared.state import formats
from shared.virtualbox.clone_parts import Made
from shared.virtualbox.export_checks import unfrozen_disk
from shared.virtualbox.export_errors import HostFullError
from shared.virtualbox.guest_pause import NOTE, GuestPause, NotPausedError, paused_by_its_user
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import SettingsError
from worker.backup.live import Live
from worker.backup.paused_clone import PausedClone
from worker.backup.room import require_room_for_memory
from worker.backup.work import Subject

log: Final = logging.getLogger(__name__)


def why_not_paused(site: Site, policy: VmPolicy, machine: Machine) -> str:
    """Why a VM that runs cannot be paused for its backup, as far as is known; empty: it can.

    Nothing is written, and nothing done to the VM.
    """
    if formats.is_older(site.database.head().contents.format):
        return "the state database is of an older version (vmbackup-admin statedb upgrade)"
    if not machine.images:
        return "it has no disks"
    if disk := unfrozen_disk(machine):
        return f"its disk {disk.location} is {disk.kind.lower()}"
    if other := next((image for image in machine.images if image.format.upper() != "VDI"), None):
        return f"the format of its disk {other.location} is {other.format or 'unknown'}, not VDI"
    files = _files(machine)
    try:
        limit = RoomLimit(site.configuration.backup.clone_free)
        require_clonable(files, Path(machine.settings_file).parent, limit)
        require_quick(files, policy.pause_seconds)
    except NotFrozenError as error:
        return str(error)
    return ""


def _files(machine: Machine) -> list[Path]:
    return [Path(image.location) for image in machine.images]


class Paused(Live):
    """A VM that stands still while its disks are cloned, and is exported from the clones.

    `stood_still`: for how many seconds; 0: it did not, or that is not known.
    """

    stood_still = 0.0
    _folders: Collection[Path] = ()

    def prepare(self) -> Subject:
        """See `Method.prepare`."""
        try:
            return self._prepare()
        except (NotPausedError, NotFrozenError) as error:
            self.instead = str(error)
        work = self._work
        log.log(NOTICE, "copied live instead: %s", self.instead, extra={"vm": work.held.key})
        self._folders = ()
        self.restore()
        require_room_for_memory(work.machine())
        return super().prepare()

    def _prepare(self) -> Subject:
        work = self._work
        machine = work.machine()
        work.session.doing.phase = "pause"
        made = self._begin(machine, "pause")
        files = _files(machine)
        try:
            clone = PausedClone(machine, made, work.site.database.version.repository)
            self._folders = clone.folders
            flush(files)
            require_quick(files, work.policy.pause_seconds)
            with self._standing_still(made):
                clone.take(work.site.clock.sleep)
            clone.register(work.site.vboxmanage)
            return Subject(self._listed(made), machine.name)
        except (VBoxManageError, DiskImageError, SettingsError, OSError) as error:
            raise NotPausedError(f"its clone cannot be made: {error}") from None

    def require_room(self) -> None:
        """Raises `HostFullError` if its clones have to be given up, so that the VM can write.

        Only who reads them can do that: files that are open keep their room when they are removed.
        """
        if self.room_limit.reached_in(self._folders):
            raise HostFullError

    @property
    def room_limit(self) -> RoomLimit:
        """Below it the clones are given up: half of what had to be free when they were made.

        Else the next try, and each after it, would begin at that limit, and end there.
        """
        return RoomLimit(self._work.site.configuration.backup.clone_free / 2)

    @contextmanager
    def _standing_still(self, made: Made) -> Iterator[None]:
        vboxmanage, record = self._work.site.vboxmanage, self._work.record
        if self._found == "paused":
            with paused_by_its_user(vboxmanage, record.uuid):
                yield
            return
        seconds = self._work.policy.pause_seconds
        pause = GuestPause(vboxmanage, record.uuid, seconds, made.folder / NOTE)
        with pause.standing_still():
            yield
        self.stood_still = pause.lasted
        said = f"it stood still for {pause.lasted:.2f} s" if pause.lasted else "it was paused"
        log.log(NOTICE, "%s, and goes on", said, extra={"vm": record.key})
