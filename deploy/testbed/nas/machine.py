"""One machine of a cluster, seen from outside: power, network, clock, and commands run in it."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.testbed.nas.configuration import Machine
from deploy.testbed.nas.job import Job
from deploy.testbed.nas.kernel import boot_failure, kernel_command, kernel_environment, make_disk
from deploy.testbed.nas.packages import TestBedError, fetch_packages

BOOT_LIMIT_SECONDS = 90


def configure_network(*lines: str) -> None:
    """Runs lines of `ip -batch` in the network namespace of this process."""
    program = shutil.which("ip") or f"{fetch_packages()}/usr/sbin/ip"
    subprocess.run([program, "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)


class VirtualMachine:
    """A machine with a data network (NFS, SMB), which can be cut, and a control network."""

    def __init__(self, machine: Machine, directory: Path, memory_mib: int) -> None:
        self.name = machine.name
        self._machine = machine
        self._memory_mib = memory_mib
        self._job = directory / machine.name
        self._job.mkdir()
        self._kernel: subprocess.Popen[bytes] | None = None
        for device, bridge in ((f"d-{self.name}", "data"), (f"c-{self.name}", "control")):
            configure_network(
                f"tuntap add {device} mode tap", f"link set {device} master {bridge} up"
            )

    @property
    def shared(self) -> Path:
        """A directory that the machine sees under the same path.

        What is in it outlives the machine's power cuts.
        """
        return self._job

    def start(self) -> None:
        """Switches the machine on; `wait_until_ready` tells when it is up."""
        for name in ("ready", "status"):
            (self._job / name).unlink(missing_ok=True)
        self._machine.save(self._job)
        devices = [f"uml_dir={self._job}/", f"umid={self.name}", *self._devices()]
        with (self._job / "console").open("ab") as console:
            self._kernel = subprocess.Popen(
                kernel_command(self._job, self._memory_mib, devices),
                env=kernel_environment(self._memory_mib),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _devices(self) -> list[str]:
        # Without `gro` a machine has no room for the segments of up to 64 KiB that others send, and
        # a third of all packets is lost.
        options, number = "depth=128,gro=1", f"{self._machine.number:02x}"
        return [
            f"vec0:transport=tap,ifname=d-{self.name},{options},mac=02:00:00:00:00:{number}",
            f"vec1:transport=tap,ifname=c-{self.name},{options},mac=02:00:00:00:01:{number}",
        ]

    def wait_until_ready(self) -> None:
        """Waits until the machine serves, or has mounted, the NAS. Raises TestBedError."""
        end = time.monotonic() + BOOT_LIMIT_SECONDS
        while not (self._job / "ready").exists():
            if (
                self._running().poll() is not None
                or time.monotonic() > end
                or (self._job / "status").exists()
            ):
                raise TestBedError(f"{self.name} did not boot\n{boot_failure(self._job)}")
            time.sleep(0.05)

    def boot(self) -> None:
        """Switches the machine on and waits until it is up. Raises TestBedError."""
        self.start()
        self.wait_until_ready()

    def kill(self) -> None:
        """Pulls the power plug: the kernel and all its processes vanish.

        Does nothing to a machine that is off.
        """
        if self._kernel and self._kernel.poll() is None:
            os.killpg(self._kernel.pid, signal.SIGKILL)
            self._kernel.wait()

    def pause(self) -> None:
        """Freezes the machine with all its processes, like a suspended laptop."""
        # The kernel process alone: it traces the others, which stop at their next event.
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undoes `pause`."""
        self._running().send_signal(signal.SIGCONT)

    def cut(self) -> None:
        """Takes the machine off the data network: packets vanish without an error."""
        # Not `down`: the network driver of the machine gives up a device that reports errors.
        configure_network(f"link set d-{self.name} nomaster")

    def heal(self) -> None:
        """Undoes `cut`."""
        configure_network(f"link set d-{self.name} master data")

    def set_clock(self, offset_seconds: float) -> None:
        """Sets the machine's wall clock to that of the outside plus `offset_seconds`.

        A reboot undoes it.
        """
        self.check("date", "-s", f"@{time.time() + offset_seconds:.3f}")

    def spawn(
        self,
        command: Sequence[str],
        *,
        directory: str = "/root",
        environment: Mapping[str, str] | None = None,
    ) -> Job:
        """Starts a command in the machine. Raises OSError if the machine does not answer."""
        return Job(self._machine.control_address, command, directory, environment or {})

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_seconds: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """Runs a command in the machine: its status and its output.

        Raises TimeoutError; the command is then killed.
        """
        with self.spawn(command, environment=environment) as job:
            status = job.wait(timeout_seconds)
            return status, job.output

    def check(self, *command: str, timeout_seconds: float = 60) -> str:
        """Runs a command that must succeed, and returns its output.

        Raises AssertionError with the output.
        """
        status, output = self.run(command, timeout_seconds=timeout_seconds)
        if status:
            raise AssertionError(f"{self.name}: status {status} of {' '.join(command)}\n{output}")
        return output

    def _running(self) -> "subprocess.Popen[bytes]":
        if not self._kernel:
            raise TestBedError(f"{self.name} is off")
        return self._kernel


class ClientMachine(VirtualMachine):
    """A host: has mounted the NAS at `/mnt/nfs`, `/mnt/nfs3` and `/mnt/smb`."""


class ServerMachine(VirtualMachine):
    """The NAS. Its disk survives `kill`."""

    def __init__(self, machine: Machine, directory: Path, memory_mib: int, disk_mib: int) -> None:
        super().__init__(machine, directory, memory_mib)
        make_disk(self._job, disk_mib)

    def _devices(self) -> list[str]:
        return [f"ubda={self._job}/disk.img", *super()._devices()]

    def stop_service(self) -> None:
        """Stops both servers in order; the machine stays up."""
        self.check("nas", "server", "stop")

    def start_service(self) -> None:
        """Undoes `stop_service`."""
        self.check("nas", "server", "start")

    def fill_disk(self) -> None:
        """Leaves no free block on the disk."""
        self.check("nas", "disk", "full")

    def free_disk(self) -> None:
        """Undoes `fill_disk`."""
        self.check("nas", "disk", "free")

    def make_read_only(self) -> None:
        """Makes every write fail, as a disk does that the kernel has stopped trusting."""
        self.check("nas", "disk", "readonly")

    def make_writable(self) -> None:
        """Undoes `make_read_only`."""
        self.check("nas", "disk", "writable")
