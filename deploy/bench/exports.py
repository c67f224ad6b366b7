"""Exports of a real VM: a worker against the bare `VBoxManage export`, by turns."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from deploy.bench.report import Report, spread
from tests.support.virtualbox import RealHost, RealVm, Testbed, Unavailable

#: How much longer than VBoxManage alone the worker's export of it may take.
AIM_RATIO: Final = 1.03


def measure(report: Report, *, rounds: int, mib: int) -> None:
    """Prints times and ratios; says so where there is no real VirtualBox."""
    report.heading(
        "Exports",
        (
            f"A VM with {mib} MiB of random data, to a local directory, by turns: median "
            f"(least-most). Ratios compare the fastest."
        ),
    )
    try:
        testbed = Testbed.set_up()
    except (Unavailable, subprocess.CalledProcessError) as reason:
        report.figure("left out", str(reason))
        return
    host = testbed.host()
    try:
        Turns(report, host, host.make_vm("bench", mib=mib + 16, random_mib=mib), rounds).take()
    finally:
        host.remove()


def configure(host: RealHost, engine: str) -> None:
    """Writes the configuration of its workers; the NAS is a directory beside its VMs."""
    settings: dict[str, dict[str, object]] = {
        "nas": {"mountpoint": str(host.folder / "nas"), "require_mount": False, "reserve": "1 MiB"},
        "host": {"state_directory": str(host.folder / "state")},
        "backup": {"engine": engine, "keep_last": 1},
    }
    tables = (
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in items.items())
        for name, items in settings.items()
    )
    (host.folder / "config.toml").write_text("".join(tables), encoding="utf-8")


class Turns:
    """Bare exports, and backups by the worker with each engine, one after the other."""

    def __init__(self, report: Report, host: RealHost, vm: RealVm, rounds: int) -> None:
        self._report, self._host, self._vm, self._rounds = report, host, vm, rounds
        self._nas = host.folder / "nas"
        self._nas.mkdir()
        self._environment = {
            **os.environ,
            **host.environment,
            "VMBACKUP_CONFIG": str(host.folder / "config.toml"),
        }

    def take(self) -> None:
        """Measures and prints."""
        configure(self._host, "vboxmanage")
        self._program("coordinator.admin", "init")
        bare: list[float] = []
        found: dict[str, list[Mapping[str, Any]]] = {"vboxmanage": [], "auto": []}
        for _ in range(self._rounds):
            bare.append(self._bare())
            for engine, backups in found.items():
                backups.append(self._backup(engine))
        self._report.figure("bare VBoxManage export", spread(bare))
        for engine, backups in found.items():
            self._print(engine, backups, min(bare))

    def _print(self, engine: str, backups: list[Mapping[str, Any]], bare: float) -> None:
        exports = [backup["duration_seconds"] for backup in backups]
        rest = [backup["wall_seconds"] - backup["duration_seconds"] for backup in backups]
        name = f"worker, engine {engine} ({backups[0]['engine']})"
        self._report.figure(f"{name}: export", spread(exports))
        self._report.figure(f"{name}: the rest (start, check, publish)", spread(rest))
        ratio = min(exports) / bare
        if backups[0]["engine"] == "vboxmanage":
            self._report.judged(f"{name}: export / bare", ratio, "", AIM_RATIO)
        else:
            self._report.figure(
                f"{name}: export / bare", f"{ratio:.2f}: {1 / ratio:.1f} times as fast"
            )
        whole = min(backup["wall_seconds"] for backup in backups)
        self._report.figure(f"{name}: all of it / bare", f"{whole / bare:.2f}")

    def _bare(self) -> float:
        target = self._nas / "bare.ova"
        began = time.monotonic()
        self._host.run("export", self._vm.uuid, "--ovf20", "--manifest", f"--output={target}")
        seconds = time.monotonic() - began
        target.unlink()
        return seconds

    def _backup(self, engine: str) -> Mapping[str, Any]:
        """One backup of the VM.

        Returns what its sidecar says, and the wall time of the whole worker.
        """
        configure(self._host, engine)
        self._host.run("modifyvm", self._vm.uuid, "--description", str(time.time()))
        self._program("worker.cli", "vmfind")
        self._program("worker.cli", "notifier")
        began = time.monotonic()
        self._program("worker.cli", "backup")
        seconds = time.monotonic() - began
        newest = max(
            (self._nas / "bench").glob("[!.]*.json"),
            key=lambda path: int(path.stem.rpartition("-")[2]),
        )
        return {**json.loads(newest.read_text(encoding="utf-8")), "wall_seconds": seconds}

    def _program(self, module: str, *words: str) -> None:
        subprocess.run(
            [sys.executable, "-m", module, *words],
            env=self._environment,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
