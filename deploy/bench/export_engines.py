"""Export engines side by side.

`VBoxManage export`, the parallel engine on one core and on all, by turns, on a disk of real files.

    python -m deploy.bench.export_engines [--mib 2000] [--rounds 3]

Prints times, and the ratios that mean something on any machine: wall time, CPU time (that of
VirtualBox included), size. Peak memory is that of the process in which the engine runs. Two of a
core's costs are told apart by a run that compresses nothing.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.bench import overhead
from deploy.bench.report import Report, spread
from deploy.bench.second_copies import SEVERAL, measure_changes, measure_several, real_files
from shared.export.parallel import ParallelExporter
from shared.host.clock import SystemClock
from shared.host.processes import SubprocessRunner
from shared.ova.compression import Codec, best_codec, zlib_codec
from shared.virtualbox.inventory import take_inventory
from shared.virtualbox.vboxmanage import VBoxManage
from tests.support.virtualbox import RealHost, Testbed, Unavailable

#: What the parallel engine is meant to reach on two cores, against VBoxManage.
AIM_WALL: Final = 0.10
AIM_CPU: Final = 0.20
AIM_SIZE: Final = 1.10
AIM_MEMORY_MB: Final = 100

_MIB: Final = 2**20
_ALL: Final = os.cpu_count() or 1
#: What is compared: a name, cores, codec, and whether each grain is inflated again.
ENGINES: Final = {
    "one core": (1, "best", True),
    "all cores": (_ALL, "best", True),
    "all cores, no self-check": (_ALL, "best", False),
    "all cores, zlib 1": (_ALL, "zlib", True),
    "one core, nothing compressed": (1, "none", False),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One export: seconds, CPU seconds of all its processes, bytes written, peak memory (or 0)."""

    wall: float
    cpu: float
    size: int
    memory: int


def measure(report: Report, *, rounds: int, mib: int) -> None:
    """Prints all figures; says so where there is no real VirtualBox."""
    report.heading(
        "Export engines",
        (
            f"{mib} MiB of real files, {_ALL} cores, to a local directory, by turns: median "
            f"(least-most)."
        ),
    )
    try:
        host = Testbed.set_up().host()
    except (Unavailable, subprocess.CalledProcessError) as reason:
        report.figure("left out", str(reason))
        return
    try:
        uuid, source = make_vm(host, mib)
        found: dict[str, list[Run]] = defaultdict(list)
        for _ in range(rounds):
            found["VBoxManage"].append(run_reference(host, uuid))
            for name in ENGINES:
                found[name].append(run_engine(host, uuid, name))
        show(report, found, source)
        overhead.measure(report, host.vms / "bench.vdi")
        report.heading(
            "Second copies",
            (
                "Grains of 64 KiB all over the disk were written to since the copy before. Each "
                "change comes on top."
            ),
        )
        measure_changes(report, host, uuid, host.vms / "bench.vdi")
        report.heading(
            "Several VMs", f"{mib // SEVERAL} MiB each, each by a process that may use all cores."
        )
        measure_together(report, host, mib // SEVERAL, rounds)
    finally:
        host.remove()


def show(report: Report, found: dict[str, list[Run]], source: int) -> None:
    """The figures, and what is judged: the engine as it is used."""
    reference = found["VBoxManage"]
    for name, runs in found.items():
        wall, cpu = (
            statistics.median(run.wall for run in runs),
            statistics.median(run.cpu for run in runs),
        )
        memory = f", {max(run.memory for run in runs) / 1e6:.0f} MB" if runs[0].memory else ""
        rate = (
            f"{source / wall / 1e6:.0f} MB/s, CPU {cpu:.1f} s, {runs[0].size / 1e6:.0f} MB "
            f"written{memory}"
        )
        report.figure(name, f"{spread([run.wall for run in runs])}, {rate}")
    used = found["all cores"]
    report.judged(
        "wall time / VBoxManage",
        _ratio(used, reference, "wall"),
        f"({1 / _ratio(used, reference, 'wall'):.1f} x)",
        AIM_WALL,
    )
    report.judged(
        "CPU / VBoxManage",
        _ratio(used, reference, "cpu"),
        f"({1 / _ratio(used, reference, 'cpu'):.1f} x)",
        AIM_CPU,
    )
    report.judged("size / VBoxManage", _ratio(used, reference, "size"), "", AIM_SIZE)
    report.judged("peak memory", max(run.memory for run in used) / 1e6, "MB", AIM_MEMORY_MB)


def _ratio(runs: list[Run], reference: list[Run], key: str) -> float:
    return statistics.median(getattr(run, key) for run in runs) / statistics.median(
        getattr(run, key) for run in reference
    )


def measure_together(report: Report, host: RealHost, mib: int, rounds: int) -> None:
    """Some VMs of this size, exported one after the other and at once."""
    vms = [make_vm(host, mib, f"several-{number}")[0] for number in range(SEVERAL)]

    def start(number: int) -> "subprocess.Popen[bytes]":
        target = host.folder / f"several-{number}.ova"
        target.unlink(missing_ok=True)
        return subprocess.Popen(
            engine_command(host, vms[number], "all cores", target, target.with_suffix(".json"))
        )

    measure_several(report, start, rounds)


def make_vm(host: RealHost, mib: int, name: str = "bench") -> tuple[str, int]:
    """A VM with a disk of real files; its UUID, and the size of its disk."""
    raw, disk = host.folder / "bench.raw", host.vms / f"{name}.vdi"
    with raw.open("wb") as target:
        target.writelines(real_files(mib * _MIB))
    host.run("convertfromraw", raw, disk, "--format=VDI")
    raw.unlink()
    host.run(
        "createvm", f"--name={name}", "--ostype=Linux_64", "--register", f"--basefolder={host.vms}"
    )
    host.run("storagectl", name, "--name", "SATA", "--add", "sata")
    host.run(
        "storageattach",
        name,
        "--storagectl=SATA",
        "--port=0",
        "--device=0",
        "--type=hdd",
        f"--medium={disk}",
    )
    vms = VBoxManage(str(host.vboxmanage), SubprocessRunner(), 120).list_vms()
    return next(vm.uuid for vm in vms if vm.name == name), mib * _MIB


def run_reference(host: RealHost, uuid: str) -> Run:
    """`VBoxManage export`.

    Its work is done by VBoxSVC, which lives on: its CPU time is read before and after.
    """
    target = host.folder / "reference.ova"
    command = [host.vboxmanage, "export", uuid, "--ovf20", "--manifest", f"--output={target}"]
    wall, cpu = _watched(host, command)
    run = Run(wall, cpu, target.stat().st_size, 0)
    target.unlink()
    return run


def run_engine(host: RealHost, uuid: str, name: str) -> Run:
    """The parallel engine in a process of its own, which says what it used.

    VirtualBox's share (locks, description) is added.
    """
    target, result = host.folder / "parallel.ova", host.folder / "result.json"
    _, cpu = _watched(host, engine_command(host, uuid, name, target, result))
    inside = json.loads(result.read_text(encoding="utf-8"))
    run = Run(inside["wall"], cpu, target.stat().st_size, inside["memory"])
    target.unlink()
    return run


def engine_command(
    host: RealHost, uuid: str, name: str, target: Path, result: Path
) -> list[str | Path]:
    """A process of its own for one export. `result` is where it says what it used."""
    words = [
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


def _watched(host: RealHost, command: list[str | Path]) -> tuple[float, float]:
    """Runs a command; wall seconds, and CPU seconds of it and of VirtualBox."""
    before, began = _cpu(host), time.monotonic()
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
    return time.monotonic() - began, _cpu(host) - before


def _cpu(host: RealHost) -> float:
    """CPU seconds used so far by ended children of this process and by the VBoxSVC of the host."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    services = [process.cpu_times() for process in host.processes() if process.name() == "VBoxSVC"]
    return (
        children.ru_utime + children.ru_stime + sum(times.user + times.system for times in services)
    )


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
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.bench.export_engines", description=__doc__
    )
    parser.add_argument("--mib", type=int, default=2000, help="size of the disk")
    parser.add_argument("--rounds", type=int, default=3)
    for name in ("vboxmanage", "home", "vm", "engine", "target", "result"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.vm:
        export_once(given)
        return 0
    report = Report()
    print(f"load {os.getloadavg()[0]:.1f}, {best_codec().name}")
    measure(report, rounds=given.rounds, mib=given.mib)
    print(f"\naims missed: {report.missed}; load now {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
