"""Looking at the NAS during an export: how the file grows, and whether room and claim are left."""

import logging
import os
import threading
from typing import Final

from shared.copies.space_needed import human
from shared.export.exporter import RunningExport
from shared.host.errors import NasError, VmBackupError
from shared.site import Site
from shared.state.sessions.heartbeat import BEATS_PER_LEASE
from shared.state.sessions.holding import Holding
from worker.backup.priority import ExportPriority

log: Final = logging.getLogger(__name__)

#: How often it looks.
LOOK_SECONDS: Final = 5.0


class NasWatcher:
    """A thread of its own, which a NAS that does not answer may hold up.

    `size` and `grown_at` say how the export grows; `problem` why it has to be cancelled, if so.
    """

    def __init__(
        self, site: Site, held: Holding, export: RunningExport, priority: ExportPriority
    ) -> None:
        self._site, self._held, self._export, self._priority = site, held, export, priority
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nas-watcher", daemon=True)
        self._progress = 0
        self.size = 0
        self.grown_at = site.clock.monotonic()
        self.problem: VmBackupError | None = None

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Ends. A look that hangs is not waited for."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        claim_checked = self._site.clock.monotonic()
        while not self._stop.wait(LOOK_SECONDS):
            try:
                self._look_at_file()
                self._priority.lower()
                now = self._site.clock.monotonic()
                if (
                    now - claim_checked
                    > self._site.database.version.lease_seconds / BEATS_PER_LEASE
                ):
                    self._look_at_claim()
                    claim_checked = now
            except VmBackupError as error:
                self.problem = error
                return
            except OSError as error:
                log.info("cannot look at the export: %s", error, extra={"vm": self._held.key})

    def _look_at_file(self) -> None:
        size, progress = self._export.size(), self._export.progress()
        if size > self.size or progress > self._progress:
            self.size, self._progress, self.grown_at = size, progress, self._site.clock.monotonic()

    def _look_at_claim(self) -> None:
        nas = self._site.configuration.nas
        room = os.statvfs(nas.mountpoint)
        if room.f_bavail * room.f_frsize < nas.reserve:
            raise NasError(
                (
                    f"the NAS ran short of room during the export: less than {human(nas.reserve)} "
                    f"are free"
                ),
                hint=(
                    "free some space, or lower nas.reserve; the export was cancelled so that "
                    "others can go on"
                ),
            )
        self._held.now()
