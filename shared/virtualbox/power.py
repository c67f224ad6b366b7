"""What a backup does to VMs that run: stopping and starting them, snapshots, linked clones. And undoing all of it.

Measured on VirtualBox 7.2.22 (docs/virtualbox.md): a snapshot of a running VM is merged back while it runs; it cannot be as long as a clone
stands on it, and the clone cannot be removed as long as it is exported, also by an export whose VBoxManage was killed.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

from shared.clock import Clock
from shared.errors import VBoxManageError
from shared.virtualbox.export import DiskUse, VmBusyError, VmRunsError, disk_use
from shared.virtualbox.inventory import Machine
from shared.virtualbox.printed import STOPPED
from shared.virtualbox.vboxmanage import VBoxManage

#: States in which a guest is being executed, or will be again without anybody starting it.
RUNNING: Final = frozenset({"running", "paused"})
_POLL_SECONDS: Final = 0.5
_SETTLE_SECONDS: Final = 60.0
#: VBoxSVC notices a moment later that the command has ended which held the read lock of a disk; an orphan export takes longer than this.
_RELEASE_SECONDS: Final = 15.0


class Power:
    """Power buttons and snapshots of one host's VMs. All methods raise `VBoxManageError` if VirtualBox does not do what is asked."""

    def __init__(self, vboxmanage: VBoxManage, clock: Clock) -> None:
        self._vboxmanage, self._clock = vboxmanage, clock

    def wait_for(self, uuid: str, states: frozenset[str], timeout_seconds: float) -> str:
        """Waits until the VM is in one of these states and VirtualBox has let go of it. Raises `VmRunsError` if that takes too long."""
        end = self._clock.monotonic() + timeout_seconds
        while True:
            info = self._vboxmanage.info(uuid)
            if info.state in states and (info.stopped or info.state in RUNNING):
                return info.state
            if self._clock.monotonic() >= end:
                raise VmRunsError(f"the VM is still {info.state} after {timeout_seconds:.0f} s")
            self._clock.sleep(_POLL_SECONDS)

    def save(self, uuid: str, timeout_seconds: float) -> None:
        """Saves the state of a running VM: its memory goes to a file, and it stops."""
        self._vboxmanage.run_long(timeout_seconds, "controlvm", uuid, "savestate")
        self.wait_for(uuid, frozenset({"saved"}), _SETTLE_SECONDS)

    def shut_down(self, uuid: str, timeout_seconds: float, *, pull_plug: bool) -> None:
        """Presses the power button and waits until the guest has shut down. With `pull_plug` one that does not is switched off.

        Raises `VmRunsError` if it goes on running.
        """
        if self._vboxmanage.info(uuid).state == "paused":
            self._vboxmanage.run("controlvm", uuid, "resume")  # a guest that stands still hears no button
        self._vboxmanage.run("controlvm", uuid, "acpipowerbutton")
        try:
            self.wait_for(uuid, frozenset({"poweroff"}), timeout_seconds)
        except VmRunsError:
            if not pull_plug:
                raise
            self._vboxmanage.run("controlvm", uuid, "poweroff")
            self.wait_for(uuid, frozenset({"poweroff"}), _SETTLE_SECONDS)

    def bring_back(self, uuid: str, found: str) -> None:
        """Brings a VM back to the power state `found` that it had. One that its user has started meanwhile is left alone.

        One that is still being saved, because whoever began that was interrupted, is waited for: `VmRunsError` if that takes too long.
        """
        if found not in RUNNING:
            return
        if self.wait_for(uuid, RUNNING | STOPPED, _SETTLE_SECONDS) in STOPPED:
            self._vboxmanage.run("startvm", uuid, "--type=headless")
            self.wait_for(uuid, RUNNING, _SETTLE_SECONDS)
            if found == "paused":
                self._vboxmanage.run("controlvm", uuid, "pause")

    def snapshot_and_clone(self, machine: Machine, tag: str) -> None:
        """Takes a snapshot called `tag`, of a running VM without stopping it, and registers a linked clone of it under the same name."""
        live = [] if self._vboxmanage.info(machine.uuid).stopped else ["--live"]
        self._vboxmanage.run("snapshot", machine.uuid, "take", tag, "--description=made by vmbackup, which removes it", *live)
        folder = os.path.dirname(machine.settings_file)
        options = "--options=Link,KeepAllMACs,KeepHwUUIDs"
        self._vboxmanage.run(
            *(
                "clonevm",
                machine.uuid,
                f"--snapshot={tag}",
                "--mode=machine",
                options,
                f"--name={tag}",
                f"--basefolder={folder}",
                "--register",
            )
        )

    def remove_clone(self, machine: Machine, clone: Machine | None, tag: str) -> None:
        """Removes the clone called `tag`, or what an interrupted removal has left of it. Raises `VmBusyError` while it is exported."""
        folder = Path(machine.settings_file).parent / tag
        if clone is not None:
            self._wait_until_free(clone, tag)
            self._vboxmanage.run("unregistervm", clone.uuid, "--delete")
        for image in machine.settings.images.values() if machine.settings else ():
            if Path(image.location).is_relative_to(folder):  # unregistered without its disk: the disk is known to nobody else
                with contextlib.suppress(VBoxManageError):
                    self._vboxmanage.run("closemedium", "disk", image.uuid, "--delete")
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)

    def _wait_until_free(self, clone: Machine, tag: str) -> None:
        end = self._clock.monotonic() + _RELEASE_SECONDS
        while disk_use(self._vboxmanage, clone) is not DiskUse.FREE:
            if self._clock.monotonic() >= end:
                raise VmBusyError(f"the clone {tag} is still being exported", hint="it ends by itself; the next tick looks again")
            self._clock.sleep(_POLL_SECONDS)

    def remove_snapshot(self, uuid: str, tag: str, timeout_seconds: float) -> None:
        """Merges the snapshot called `tag` back, if there is one. Other snapshots are never touched."""
        if self.has_snapshot(uuid, tag):
            self._vboxmanage.run_long(timeout_seconds, "snapshot", uuid, "delete", tag)

    def has_snapshot(self, uuid: str, tag: str) -> bool:
        """Whether the VM has a snapshot of that name."""
        try:
            listed = self._vboxmanage.read("snapshot", uuid, "list", "--machinereadable")
        except VBoxManageError as error:
            if "does not have any snapshots" in error.message:
                return False
            raise
        return any(line.partition("=")[2] == f'"{tag}"' for line in listed.splitlines() if line.startswith("SnapshotName"))
