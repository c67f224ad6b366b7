"""What a test may ask of a VirtualBox host, be it real (`tests.support.virtualbox`) or simulated
(`tests.support.simulated`).

The contract suite runs against both, so what a test has learnt from a simulated host holds for a
real one.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from subprocess import CompletedProcess


class VirtualMachine(Protocol):
    """A small VM whose guest counts on its disk once a second."""

    @property
    def uuid(self) -> str: ...

    @property
    def name(self) -> str:
        """The name it was made with."""

    @property
    def disk(self) -> Path:
        """Its disk: the base of the chain if there are snapshots."""

    @property
    def settings(self) -> Path:
        """Its .vbox file."""

    def info(self, key: str) -> str:
        """One value of `showvminfo --machinereadable`; empty if there is no such key."""

    def start(self) -> None:
        """Starts it and waits until the guest counts."""

    def stop(self) -> None:
        """Pulls its plug."""

    def press_power_button(self) -> None:
        """Asks the guest to shut down."""

    def wait_for_state(self, *states: str) -> None:
        """Waits until VirtualBox says one of these states and has let go of the VM."""

    def beats(self) -> int:
        """How often the running guest has counted since its last start (one beat a second)."""

    def counter(self) -> int:
        """What the guest has counted to in its life, read from its disk. The VM must be stopped."""

    def kill(self) -> None:
        """Kills the process in which it runs and waits until VirtualBox says `aborted`."""


class VirtualBoxHost(Protocol):
    """A machine with a VBoxSVC, settings and VMs of its own."""

    name: str
    folder: Path

    @property
    def home(self) -> Path:
        """VBOX_USER_HOME."""

    @property
    def vms(self) -> Path:
        """Where its VMs and their disks are."""

    @property
    def vboxmanage(self) -> Path:
        """An executable that is VBoxManage of this host; for VMBACKUP_VBOXMANAGE."""

    @property
    def environment(self) -> dict[str, str]:
        """What a worker of this host has in its environment."""

    def run(self, *arguments: str | Path, check: bool = True) -> "CompletedProcess[str]":
        """VBoxManage with these arguments; an AssertionError with its stderr if it fails."""

    def make_vm(
        self, name: str, *, mib: int = 8, random_mib: int = 1, delay: float | None = 0
    ) -> VirtualMachine:
        """A small VM, stopped.

        `delay`: seconds between power button and power off; None: the guest ignores the button.
        """

    def share(self, directory: Path) -> None:
        """Shows a directory to the host under the same path."""

    def lose_power(self) -> None:
        """Ends everything that runs on this host at once, as a power failure does."""

    def remove(self) -> None:
        """Ends all its processes and deletes all its VMs."""
