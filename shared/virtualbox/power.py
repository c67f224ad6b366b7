"""What a backup does to the power of VMs that run: stopping and starting them."""

from collections.abc import Mapping
from typing import Final

from shared.host.clock import Clock
from shared.host.waits import pausing
from shared.virtualbox.export_errors import VmRunsError
from shared.virtualbox.vboxmanage import VBoxManage, work_seconds
from shared.virtualbox.vboxmanage_output import STOPPED

#: States in which a guest is being executed, or will be again without anybody starting it.
RUNNING: Final = frozenset({"running", "paused"})
_CRASHED: Final = (
    "its guest has crashed VirtualBox",
    "look at it, then switch it off (VBoxManage controlvm VM poweroff): it is backed up then",
)
#: States that no VM leaves by itself, and in which it cannot be saved, shut down or exported: what
#: each means, and what to do.
STUCK: Final[Mapping[str, tuple[str, str]]] = {
    "gurumeditation": _CRASHED,
    "stuck": _CRASHED,
    "teleportingin": (
        "its teleporter is on, so it waits for a guest that runs on another host",
        "teleport that here, or end its process, and switch the teleporter off (modifyvm)",
    ),
    "teleported": (
        "it goes on running on another host, which writes to its disks",
        "unregister it here, or bring it back; that host backs it up if it has it registered",
    ),
}
_POLL_SECONDS: Final = 0.5
_SETTLE_SECONDS: Final = 60.0


class PowerSwitch:
    """PowerSwitch buttons of one host's VMs.

    All methods raise `VBoxManageError` if VirtualBox does not do what is asked.
    """

    def __init__(self, vboxmanage: VBoxManage, clock: Clock) -> None:
        self._vboxmanage, self._clock = vboxmanage, clock

    def wait_for(self, uuid: str, states: frozenset[str], timeout_seconds: float) -> str:
        """Waits until the VM is in one of these states and VirtualBox has let go of it.

        Raises `VmRunsError` if that takes too long.
        """
        end = self._clock.monotonic() + timeout_seconds
        what = f"the VM to be {' or '.join(sorted(states))}"
        pause = pausing(self._clock.sleep, what, timeout_seconds)
        while True:
            info = self._vboxmanage.info(uuid)
            if info.state in states and (info.stopped or info.state in RUNNING):
                return info.state
            if self._clock.monotonic() >= end:
                raise VmRunsError(f"the VM is still {info.state} after {timeout_seconds:.0f} s")
            pause(_POLL_SECONDS)

    def save(self, uuid: str) -> None:
        """Saves the state of a running VM: its memory goes to a file, and it stops."""
        limit = work_seconds(self._vboxmanage.info(uuid).memory)
        self._vboxmanage.run_long(limit, "controlvm", uuid, "savestate")
        self.wait_for(uuid, frozenset({"saved"}), _SETTLE_SECONDS)

    def start(self, uuid: str) -> None:
        """Starts a VM without a screen; one that is saved reads its memory first."""
        limit = work_seconds(self._vboxmanage.info(uuid).memory)
        self._vboxmanage.run_long(limit, "startvm", uuid, "--type=headless")

    def shut_down(self, uuid: str, timeout_seconds: float, *, pull_plug: bool) -> None:
        """Presses the power button and waits until the guest has shut down.

        With `pull_plug` one that does not is switched off.

        Raises `VmRunsError` if it goes on running.
        """
        if self._vboxmanage.info(uuid).state == "paused":
            self._vboxmanage.run(
                "controlvm", uuid, "resume"
            )  # a guest that stands still hears no button
        self._vboxmanage.run("controlvm", uuid, "acpipowerbutton")
        try:
            self.wait_for(uuid, frozenset({"poweroff"}), timeout_seconds)
        except VmRunsError:
            if not pull_plug:
                raise
            self._vboxmanage.run("controlvm", uuid, "poweroff")
            self.wait_for(uuid, frozenset({"poweroff"}), _SETTLE_SECONDS)

    def bring_back(self, uuid: str, found: str) -> None:
        """Brings a VM back to the power state `found` that it had.

        One that its user has started meanwhile is left alone.

        One that is still being saved, because whoever began that was interrupted, is waited for:
        `VmRunsError` if that takes too long.
        """
        if found not in RUNNING:
            return
        if self.wait_for(uuid, RUNNING | STOPPED, _SETTLE_SECONDS) in STOPPED:
            self.start(uuid)
            self.wait_for(uuid, RUNNING, _SETTLE_SECONDS)
            if found == "paused":
                self._vboxmanage.run("controlvm", uuid, "pause")
