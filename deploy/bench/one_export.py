"""One export in a process of its own, watched from outside."""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from shared.export.parallel import ParallelExporter
from shared.host.clock import SystemClock
from shared.host.processes import SubprocessRunner
from shared.ova.compression import Codec, best_codec, zlib_codec
from shared.virtualbox.inventory import take_inventory
from shared.virtualbox.vboxmanage import VBoxManage
from tests.support.virtualbox import RealHost

#: The cores of this machine.
ALL_CORES: Final = os.cpu_count() or 1


#: What is compared: a name, cores, codec, and whether each grain is inflated again.
ENGINES: Final = {
    "one core": (1, "best", True),
    "all cores": (ALL_CORES, "best", True),
    "all cores, no self-check": (ALL_CORES, "best", False),
    "all cores, zlib 1": (ALL_CORES, "zlib", True),
    "one core, nothing compressed": (1, "none", False),
}


def engine_command(
    host: RealHost, uuid: str, name: str, target: Path, result: Path
) -> list[str | Path]:
    """A process of its own for one export. `result` is where it says what it used."""
    words: list[str | Path] = [
        "--vboxmanage",
        host.vboxmanage,
        "--home",
        host.home,
        "--vm",
        uuid,
        "--engine",
        name,
        "--target",
        target,
        "--result",
        result,
    ]
    return [sys.executable, "-m", "deploy.bench.export_engines", *words]


def watched(host: RealHost, command: Sequence[str | Path]) -> tuple[float, float]:
    """Runs a command; wall seconds, and CPU seconds of it and of VirtualBox."""
    before, began = _used(host), time.monotonic()
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        sys.exit(f"{command}: status {done.returncode}\n{done.stderr}")
    wall, after = time.monotonic() - began, _used(host)
    return wall, sum(seconds - before.get(who, 0.0) for who, seconds in after.items())


def _used(host: RealHost) -> dict[tuple[int, float], float]:
    """CPU seconds so far: of ended children of this process, and of each process of VirtualBox."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {(0, 0.0): children.ru_utime + children.ru_stime, **used_by(host)}


def used_by(host: RealHost) -> dict[tuple[int, float], float]:
    """CPU seconds so far of each process of VirtualBox that runs on a host.

    By number and start: VBoxSVC, which does the work, ends when it is idle, and another one begins.
    """
    found: dict[tuple[int, float], float] = {}
    for process in host.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith("VBox"):
                times = process.cpu_times()
                found[process.pid, process.create_time()] = times.user + times.system
    return found


def export_once(given: argparse.Namespace) -> None:
    """What runs in the process of its own: one export, fsync included."""
    cores, codec_name, self_check = ENGINES[given.engine]
    nothing = zlib_codec(1).compress(bytes(range(256)) * 256).ljust(26_000, b"\0")
    codecs = {
        "best": best_codec(),
        "zlib": zlib_codec(1),
        "none": Codec("none", lambda _: nothing, lambda data: data),
    }
    manager = VBoxManage(given.vboxmanage, SubprocessRunner(), 120)
    machine = take_inventory(manager, Path(given.home), time.sleep)[given.vm]
    scratch = Path(given.target).parent / "scratch"
    exporter = ParallelExporter(
        manager,
        SystemClock(),
        scratch=scratch,
        cores=cores,
        codec=codecs[codec_name],
        self_check=self_check,
    )
    began = time.monotonic()
    export = exporter.start(machine, Path(given.target))
    while not export.poll():
        time.sleep(0.01)
    export.result()
    Path(given.result).write_text(
        json.dumps({"wall": time.monotonic() - began, "memory": _peak_memory()}), encoding="utf-8"
    )


def _peak_memory() -> int:
    """The peak memory of this program.

    What getrusage says on Linux is that of the program that started it, if that was more.
    """
    if os.uname().sysname != "Linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
