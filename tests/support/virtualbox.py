"""Real VirtualBox hosts for tests: each has a VBoxSVC, settings and VMs of its own.

A host lives in the test bed's chroot (`deploy/testbed/virtualbox`), under paths that are the same
inside and outside of it. Where VirtualBox with its kernel driver is installed on this machine, that
is used instead, with settings of the host's own.
"""

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from shared.host.process_identity import ProcessIdentity, wait_until_gone
from tests.support.waiting import wait_for

TOOLS = Path(__file__).resolve().parents[2] / "deploy" / "testbed" / "virtualbox"
_numbers = itertools.count(1)


class Unavailable(Exception):  # noqa: N818 - a reason, not a failure
    """Why there can be no real VirtualBox host here."""


@dataclass(frozen=True)
class Testbed:
    """A place for hosts. `installed`: this machine's own VBoxManage; None means the chroot."""

    __test__ = False
    folder: Path
    installed: Path | None = None

    @classmethod
    def set_up(cls) -> "Testbed":
        """Finds or makes it: about 90 s the first time, 0.1 s afterwards.

        Processes that ask at once wait for each other.

        Raises `Unavailable`, or CalledProcessError if the set-up fails.
        """
        folder = Path(
            os.path.realpath(os.environ.get("VMBACKUP_TESTBED", "/var/cache/vmbackup-testbed"))
        )
        program = shutil.which("VBoxManage")
        if program and (sys.platform == "darwin" or Path("/dev/vboxdrv").exists()):
            return cls(
                folder
                if os.access(folder, os.W_OK)
                else Path(f"/var/tmp/vmbackup-testbed-{os.getuid()}"),
                Path(program),
            )
        if os.geteuid() != 0:
            raise Unavailable(
                "real VirtualBox hosts need root (to set up a chroot) or an installed VirtualBox"
            )
        if not shutil.which("apt-get"):
            raise Unavailable(
                "real VirtualBox hosts need Debian (apt-get) or an installed VirtualBox"
            )
        subprocess.run([TOOLS / "set-up"], check=True, stdin=subprocess.DEVNULL)
        testbed = cls(folder)
        testbed.sweep()
        return testbed

    def host(self, name: str | None = None) -> "RealHost":
        """Makes a host. Without a name it gets one that no other test process uses."""
        return RealHost(self, name or f"t{os.getpid()}-{next(_numbers)}")

    def sweep(self) -> None:
        """Removes hosts of test processes that died before they could clean up."""
        for home in (self.folder / "hosts").glob("t*-*"):
            match = re.fullmatch(r"t(\d+)-\d+", home.name)
            if match and not psutil.pid_exists(int(match[1])):
                RealHost(self, home.name).remove()


class RealHost:
    """One VirtualBox host. `remove` must be called at the end."""

    def __init__(self, testbed: Testbed, name: str) -> None:
        self.testbed, self.name = testbed, name
        self.folder = testbed.folder / "hosts" / name
        self._shared: list[Path] = []
        if testbed.installed:
            self._make_home(testbed.installed)
        else:
            subprocess.run(
                [TOOLS / "host", name], check=True, capture_output=True, stdin=subprocess.DEVNULL
            )

    def _make_home(self, program: Path) -> None:
        for directory in (self.home, self.vms):
            directory.mkdir(parents=True, exist_ok=True)
        self.vboxmanage.write_text(
            (
                f"#!/bin/sh\nVBOX_USER_HOME='{self.home}' VBOX_IPC_SOCKETID='vmbackup-{self.name}' "
                f"exec '{program}' \"$@\"\n"
            ),
            encoding="utf-8",
        )
        self.vboxmanage.chmod(0o755)

    @property
    def home(self) -> Path:
        """VBOX_USER_HOME."""
        return self.folder / "config"

    @property
    def vms(self) -> Path:
        """Where its VMs and their disks are."""
        return self.folder / "vms"

    @property
    def vboxmanage(self) -> Path:
        """An executable that is VBoxManage of this host; for VMBACKUP_VBOXMANAGE."""
        return self.folder / "VBoxManage"

    @property
    def environment(self) -> dict[str, str]:
        """What a worker of this host has in its environment."""
        return {
            "VMBACKUP_VBOXMANAGE": str(self.vboxmanage),
            "VBOX_USER_HOME": str(self.home),
            "VMBACKUP_NODE": self.name,
        }

    def run(
        self, *arguments: str | Path, check: bool = True, timeout: float = 600
    ) -> "subprocess.CompletedProcess[str]":
        """VBoxManage with these arguments; an AssertionError with its stderr if it fails."""
        done = self._run(arguments, timeout)
        for _ in range(10):
            if (
                "Failed to create the VirtualBox object" not in done.stderr
            ):  # VBoxSVC is just ending; nothing was done
                break
            time.sleep(0.5)
            done = self._run(arguments, timeout)
        assert not check or done.returncode == 0, (
            f"VBoxManage {arguments}: status {done.returncode}: {done.stderr}"
        )
        return done

    def _run(
        self, arguments: Sequence[str | Path], timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self.vboxmanage, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
            timeout=timeout,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )

    def make_vm(
        self,
        name: str,
        *,
        mib: int = 8,
        random_mib: int = 1,
        delay: float | None = 0,
        walk_mib: int = 0,
    ) -> "RealVm":
        """A small VM, stopped.

        `delay`: seconds between power button and power off; None: the guest ignores the button.
        `walk_mib`: each second it reads one of the first so many MiB of its random data, too.
        """
        words: list[str | Path] = [
            "--vboxmanage",
            self.vboxmanage,
            "--folder",
            self.vms,
            "--mib",
            str(mib),
            "--random-mib",
            str(random_mib),
            "--walk",
            str(walk_mib),
        ]
        words += [
            "--delay",
            "ignore" if delay is None else str(delay),
            "--engine",
            "default" if self.testbed.installed else "interpreter",
        ]
        command: list[str | Path] = [sys.executable, TOOLS / "tiny-vm", *words, "--", name]
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        assert done.returncode == 0, done.stderr
        return RealVm(self, done.stdout.strip(), name)

    def share(self, directory: Path) -> None:
        """Shows a directory to the host under the same path, until `remove`."""
        if not self.testbed.installed and not directory.resolve().is_relative_to(
            self.testbed.folder / "hosts"
        ):
            subprocess.run([TOOLS / "share", directory], check=True, stdin=subprocess.DEVNULL)
            self._shared.append(directory)

    def processes(self, name: str = "", word: str = "") -> list[psutil.Process]:
        """The VirtualBox processes of this host: VBoxSVC, its helpers, VMs, commands.

        Only those of this name, with this word in their command line. Each may end at any moment:
        whoever asks one for more must expect that it is gone.
        """
        mine = []
        for process in psutil.process_iter():
            try:
                called = process.name()
                if (
                    called.startswith("VBox")
                    and (not name or called == name)
                    and process.environ().get("VBOX_USER_HOME") == str(self.home)
                    and (not word or word in process.cmdline())
                ):
                    mine.append(process)
            except psutil.Error:
                continue
        return mine

    def lose_power(self) -> None:
        """Kills everything that runs on this host at once, as a power failure does."""
        services = self.processes("VBoxSVC")  # it must not live to see a VM die
        victims = [*services, *(each for each in self.processes() if each not in services)]
        identities = [
            identity for process in victims if (identity := ProcessIdentity.of(process.pid))
        ]
        for identity in identities:
            with contextlib.suppress(ProcessLookupError):
                os.kill(identity.pid, signal.SIGKILL)
        for identity in identities:
            assert wait_until_gone(identity, timeout_seconds=10, poll_seconds=0.02), identity
        temporary = (
            Path("/tmp") if self.testbed.installed else self.testbed.folder / "virtualbox" / "tmp"
        )
        shutil.rmtree(
            temporary / f".vbox-vmbackup-{self.name}-ipc", ignore_errors=True
        )  # /tmp is empty after a boot

    def remove(self) -> None:
        """Ends all its processes and deletes all its VMs. Other hosts are not touched."""
        self.lose_power()
        for directory in self._shared:
            subprocess.run(
                [TOOLS / "share", "--end", directory], check=True, stdin=subprocess.DEVNULL
            )
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class RealVm:
    """A small VM that really runs (`deploy/testbed/virtualbox/tiny-vm`)."""

    host: RealHost
    uuid: str
    name: str

    @property
    def disk(self) -> Path:
        """Its disk: the base of the chain if there are snapshots."""
        return self.host.vms / f"{self.uuid}.vdi"

    @property
    def serial(self) -> Path:
        """What its guest prints: a dot for each beat."""
        return self.host.vms / f"{self.uuid}.serial"

    @property
    def settings(self) -> Path:
        """Its .vbox file."""
        return Path(self.info("CfgFile"))

    def info(self, key: str) -> str:
        """One value of `showvminfo --machinereadable`; empty if there is no such key."""
        text = self.host.run("showvminfo", self.uuid, "--machinereadable").stdout
        match = re.search(rf'^"?{re.escape(key)}"?="?(.*?)"?$', text, re.MULTILINE)
        return match[1] if match else ""

    def start(self) -> None:
        """Starts it and waits until the guest counts."""
        self.serial.unlink(missing_ok=True)  # a saved guest would go on with it
        self.host.run("startvm", self.uuid, "--type=headless")
        wait_for(lambda: self.beats() > 0, "the guest to boot", seconds=300)

    def stop(self) -> None:
        """Pulls its plug."""
        self.host.run("controlvm", self.uuid, "poweroff")
        self.wait_for_state("poweroff")

    def press_power_button(self) -> None:
        """Asks the guest to shut down."""
        self.host.run("controlvm", self.uuid, "acpipowerbutton")

    def wait_for_state(self, *states: str) -> None:
        """Waits until VirtualBox says one of these states and has let go of the VM."""

        def settled() -> bool:
            text = self.host.run("showvminfo", self.uuid, "--machinereadable", check=False).stdout
            return any(f'\nVMState="{state}"' in text for state in states) and (
                "running" in states or "\nSessionName=" not in text
            )

        wait_for(settled, f"{self.name} to be {' or '.join(states)}")

    def beats(self) -> int:
        """How often the running guest has counted since its last start (one beat a second)."""
        return self.serial.read_bytes().count(b".") if self.serial.exists() else 0

    def counter(self) -> int:
        """What the guest has counted to in its life, read from its disk. The VM must be stopped."""
        disk = self.info("SATA-0-0")
        command: list[str | Path] = [
            self.host.vboxmanage,
            "mediumio",
            f"--disk={disk}",
            "cat",
            f"--offset={63 * 512}",
            "--size=512",
        ]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return int.from_bytes(done.stdout[4:8], "little") if done.stdout[:2] == b"TC" else 0

    def kill(self) -> None:
        """Kills the process in which it runs and waits until VirtualBox says `aborted`."""
        self.process().kill()
        self.wait_for_state("aborted")

    def process(self) -> psutil.Process:
        """The process in which it runs."""
        commands = self.host.processes(word="startvm")
        return next(
            process for process in self.host.processes(word=self.uuid) if process not in commands
        )


@contextmanager
def stopped(
    program: "subprocess.Popen[str]", condition: Callable[[], bool], what: str
) -> Iterator[None]:
    """Stops a program as soon as the condition holds; it goes on at the end of the block.

    So a test comes in time however fast the machine is. A signal that is sent meanwhile is what the
    program meets first. AssertionError if it has ended before, or after 60 s. If the test fails it
    is ended, so that nothing of it is left for the next test.
    """
    end = time.monotonic() + 60
    try:
        while not condition():
            assert program.poll() is None, f"it ended before {what}"
            assert time.monotonic() < end, f"waited 60 s for {what}"
            time.sleep(0.005)
        program.send_signal(signal.SIGSTOP)
        assert program.poll() is None, f"it ended at once after {what}"
        yield
        program.send_signal(signal.SIGCONT)
    except BaseException:
        program.kill()
        program.communicate()
        raise
