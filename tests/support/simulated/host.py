"""Simulated hosts for tests: the interface of the real ones, and switches for faults."""

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.simulated import disks, machines, power, settings
from tests.support.simulated.faults import Faults, check_names
from tests.support.simulated.state import Host, Machine, Medium, exports, opened
from tests.support.waiting import wait_for

_PROGRAM = Path(__file__).with_name("vboxmanage.py")


class SimulatedHost:
    """A simulated VirtualBox host in `directory/name`. See `tests.support.hosts.VirtualBoxHost`."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name, self.folder = name, directory / name
        for folder in (self.home, self.vms):
            folder.mkdir(parents=True, exist_ok=True)
        command = " ".join(
            f"'{word}'" for word in (sys.executable, "-I", "-S", _PROGRAM, self.home)
        )
        self.vboxmanage.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        self.vboxmanage.chmod(0o755)
        with self.state(changes=True) as host:
            settings.write_host(host)

    @property
    def home(self) -> Path:
        return self.folder / "config"

    @property
    def vms(self) -> Path:
        return self.folder / "vms"

    @property
    def vboxmanage(self) -> Path:
        return self.folder / "VBoxManage"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "VMBACKUP_VBOXMANAGE": str(self.vboxmanage),
            "VBOX_USER_HOME": str(self.home),
            "VMBACKUP_NODE": self.name,
        }

    def state(self, *, changes: bool) -> AbstractContextManager[Host]:
        """The state of the host, locked meanwhile."""
        return opened(str(self.home), changes=changes)

    def run(self, *arguments: str | Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [self.vboxmanage, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
            timeout=120,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        assert not check or done.returncode == 0, (
            f"VBoxManage {arguments}: status {done.returncode}: {done.stderr}"
        )
        return done

    def make_vm(
        self, name: str, *, mib: int = 8, random_mib: int = 1, delay: float | None = 0
    ) -> "SimulatedVm":
        return self._make([name], mib, random_mib, delay)[0]

    def make_vms(
        self, count: int, *, prefix: str = "vm", mib: int = 8, random_mib: int = 0
    ) -> "list[SimulatedVm]":
        """Many small VMs at once: 1000 take a second."""
        return self._make(
            [f"{prefix}{number:04d}" for number in range(1, count + 1)], mib, random_mib, 0
        )

    def _make(
        self, names: list[str], mib: int, random_mib: int, delay: float | None
    ) -> "list[SimulatedVm]":
        made = []
        with self.state(changes=True) as host:
            for name in names:
                machine = Machine(
                    machines.new_uuid(),
                    name,
                    machines.settings_path(host, name),
                    time.time(),
                    memory=16,
                    button_delay=delay,
                )
                disk = Medium(
                    machines.new_uuid(),
                    str(self.vms / f"{machine.uuid}.vdi"),
                    mib,
                    registry=machine.uuid,
                )
                disks.create(disk.location, disk.uuid, mib)
                disks.write(disk.location, 0, struct.pack("<2sxxI", b"TC", 0), disks.COUNTER_OFFSET)
                for block in range(1, random_mib + 1):
                    disks.write(disk.location, block, os.urandom(disks.BLOCK))
                machine.controllers, machine.disks = {"SATA": 4}, {"SATA-0-0": disk.uuid}
                host.media[disk.uuid], host.machines[machine.uuid] = disk, machine
                os.mkdir(machine.folder, mode=0o700)
                settings.write_machine(host, machine)
                made.append(SimulatedVm(self, machine.uuid, name))
            settings.write_host(host)
        return made

    def share(self, directory: Path) -> None:
        """A simulated host sees all of this machine."""

    def fault(self, vm: "SimulatedVm | None" = None, **faults: Any) -> None:
        """Sets faults (see `tests.support.simulated.faults`), for one machine or the whole host.

        Others stay as they are.
        """
        check_names(set(faults), of_machine=vm is not None)
        with self.state(changes=False):
            stored = Faults(str(self.home))
            values = (
                stored.values.setdefault("vms", {}).setdefault(vm.uuid, {}) if vm else stored.values
            )
            values.update(faults)
            stored.write()

    def mend(self) -> None:
        """Takes all faults away."""
        (self.home / "faults.json").unlink(missing_ok=True)

    def exports(self) -> list[dict[str, Any]]:
        """The exports that run now: process, media, target."""
        with self.state(changes=False) as host:
            return exports(host.home)

    def lose_power(self) -> None:
        with self.state(changes=True) as host:
            for export in exports(host.home):
                with suppress(ProcessLookupError):
                    os.kill(export["pid"], signal.SIGKILL)
            for machine in host.machines.values():
                machine.settle()
            wait_for(lambda: not exports(host.home), "exports to end", 10)

    def remove(self) -> None:
        self.lose_power()
        shutil.rmtree(self.folder)


@dataclass(frozen=True)
class SimulatedVm:
    """A simulated VM whose guest counts on its disk. See `tests.support.hosts.VirtualMachine`."""

    host: SimulatedHost
    uuid: str
    name: str

    @property
    def disk(self) -> Path:
        return self.host.vms / f"{self.uuid}.vdi"

    @property
    def settings(self) -> Path:
        with self.host.state(changes=False) as host:
            return Path(host.machines[self.uuid].settings)

    def info(self, key: str) -> str:
        text = self.host.run("showvminfo", self.uuid, "--machinereadable").stdout
        match = re.search(rf'^"?{re.escape(key)}"?="?(.*?)"?$', text, re.MULTILINE)
        return match[1] if match else ""

    def start(self) -> None:
        """Starts it; its guest has booted."""
        self.host.run("startvm", self.uuid, "--type=headless")
        time.sleep(power.BOOT_SECONDS)

    def stop(self) -> None:
        self.host.run("controlvm", self.uuid, "poweroff")

    def press_power_button(self) -> None:
        self.host.run("controlvm", self.uuid, "acpipowerbutton")

    def wait_for_state(self, *states: str) -> None:
        wanted = f"{self.name} to be {' or '.join(states)}"
        wait_for(lambda: self.info("VMState") in states, wanted, 30)

    def beats(self) -> int:
        with self.host.state(changes=False) as host:
            machine = host.machines[self.uuid]
            return power.beats(machine, time.time()) if machine.state == "running" else 0

    def counter(self) -> int:
        with self.host.state(changes=False) as host:
            return disks.read_counter(host, host.machines[self.uuid])

    def kill(self) -> None:
        with self.host.state(changes=True) as host:
            power.end(host, host.machines[self.uuid], "aborted")
