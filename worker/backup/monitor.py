"""Watching an export: progress, growth, room, the claim.

The thread that decides never touches the NAS, so a dead NAS cannot hold it up.
"""

import contextlib
import logging
import os
import threading
from pathlib import Path
from typing import Final

from shared.copies.space import human
from shared.host.errors import CopyError, NasError, VmBackupError
from shared.site import Site
from shared.state.sessions.heartbeat import BEATS_PER_LEASE
from shared.state.sessions.holding import Holding
from shared.virtualbox.export import (
    DiskUse,
    Exporter,
    ExportError,
    RunningExport,
    Traffic,
    VmBusyError,
    VmRunsError,
    disk_use,
)
from shared.virtualbox.inventory import Machine
from worker.backup.method import Subject
from worker.backup.priority import ExportPriority

log: Final = logging.getLogger(__name__)

#: How long to wait for VBoxManage to cancel an export: it does so when the disk is a percent
#: further (1 s for 2 GB). One that takes longer ends all the same, and is waited for next time.
CANCEL_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 5.0
_SHORTEST_POLL: Final = 0.02
_LONGEST_POLL: Final = 1.0


class Monitor:
    """Runs one export to its end."""

    def __init__(self, site: Site, held: Holding, exporter: Exporter) -> None:
        self._site, self._held, self._exporter = site, held, exporter
        self._session, self._key = held.session, held.key

    def run(self, subject: Subject, target: Path) -> Traffic:
        """Returns when `target` is exported: how its bytes came there.

        Raises what went wrong, with the export cancelled and nobody working on the VM:
        `VmRunsError` if the VM runs, `LockLostError` if this worker was displaced, `NasError`,
        `VBoxManageError`, `CopyError`.
        """
        self._wait_until_free(subject.machine)
        doing = self._session.doing
        doing.phase = "export"
        export = self._exporter.start(subject.machine, target, vm_name=subject.vm_name)
        doing.child = export.identity
        priority = ExportPriority(target, self._site.configuration.backup.nice, export.identity)
        watcher = _NasWatcher(self._site, self._held, export, priority)
        watcher.start()
        try:
            self._follow(export, watcher)
        except BaseException:
            self._cancel(export)
            raise
        finally:
            watcher.stop()
            doing.child = doing.rate = doing.seconds_left = None
        return export.result()

    def _cancel(self, export: RunningExport) -> None:
        if export.cancel(CANCEL_SECONDS):
            with contextlib.suppress(ExportError):
                export.result()
        else:
            log.warning(
                "VBoxManage does not cancel the export; it is left alone and waited for next time",
                extra={"vm": self._key},
            )

    def _wait_until_free(self, machine: Machine) -> None:
        """Waits for an export that a killed worker left running.

        VirtualBox goes on with it, and lets nobody start the VM meanwhile.
        """
        backup, clock = self._site.configuration.backup, self._site.clock
        end = clock.monotonic() + backup.retry_seconds
        while (use := disk_use(self._site.vboxmanage, machine)) is not DiskUse.FREE:
            if use is DiskUse.WRITTEN:
                raise VmRunsError(f"{self._key}: its disks are being written")
            if clock.monotonic() >= end:
                raise VmBusyError(
                    f"{self._key}: an earlier export of it still runs in VirtualBox",
                    hint="it ends by itself; the next tick looks again",
                )
            log.info("waiting for an earlier export of this VM to end", extra={"vm": self._key})
            self._session.check()
            clock.sleep(min(backup.retry_interval_seconds, _LOOK_SECONDS))

    def _follow(self, export: RunningExport, watcher: "_NasWatcher") -> None:
        clock, doing = self._site.clock, self._session.doing
        began = clock.monotonic()
        while not export.poll():
            elapsed = clock.monotonic() - began
            clock.sleep(min(_LONGEST_POLL, max(_SHORTEST_POLL, elapsed / 50)))
            doing.percent, doing.bytes_done, doing.child = (
                export.progress(),
                watcher.size,
                export.identity,
            )
            doing.rate = round(watcher.size / elapsed) if watcher.size else None
            doing.seconds_left = (
                round(elapsed * (100 - doing.percent) / doing.percent) if doing.percent else None
            )
            self._session.check()
            if watcher.problem is not None:
                raise watcher.problem
            stalled = clock.monotonic() - watcher.grown_at
            if stalled > self._site.configuration.backup.stall_seconds:
                raise CopyError(
                    (
                        f"the export has not grown for {stalled:.0f} s (it has "
                        f"{human(watcher.size)}) and was cancelled"
                    ),
                    hint="look at the host's disk and the NAS; backup.stall_seconds sets the limit",
                )


class _NasWatcher:
    """Looks at the NAS in a thread of its own.

    How large the file is, whether there is room, whether the claim still stands.
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
        while not self._stop.wait(_LOOK_SECONDS):
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
