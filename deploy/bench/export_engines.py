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
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deploy.bench import overhead
from deploy.bench.one_export import ALL_CORES, ENGINES, engine_command, export_once, watched
from deploy.bench.report import Report, spread
from deploy.bench.second_copies import SEVERAL, measure_changes, measure_several, real_files
from shared.host.processes import SubprocessRunner
from shared.ova.compression import best_codec
from shared.virtualbox.vboxmanage import VBoxManage
from tests.support.virtualbox import RealHost, Testbed, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

#: What the parallel engine is meant to reach on two cores, against VBoxManage.
AIM_WALL: Final = 0.10
AIM_CPU: Final = 0.20
AIM_SIZE: Final = 1.10
AIM_MEMORY_MB: Final = 100

_MIB: Final = 2**20


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
            f"{mib} MiB of real files, {ALL_CORES} cores, to a local directory, by turns: median "
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
    return statistics.median(float(getattr(run, key)) for run in runs) / statistics.median(
        float(getattr(run, key)) for run in reference
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
    command: list[str | Path] = [
        host.vboxmanage,
        "export",
        uuid,
        "--ovf20",
        "--manifest",
        f"--output={target}",
    ]
    wall, cpu = watched(host, command)
    run = Run(wall, cpu, target.stat().st_size, 0)
    target.unlink()
    return run


def run_engine(host: RealHost, uuid: str, name: str) -> Run:
    """The parallel engine in a process of its own, which says what it used.

    VirtualBox's share (locks, description) is added.
    """
    target, result = host.folder / "parallel.ova", host.folder / "result.json"
    _, cpu = watched(host, engine_command(host, uuid, name, target, result))
    inside = json.loads(result.read_text(encoding="utf-8"))
    run = Run(inside["wall"], cpu, target.stat().st_size, inside["memory"])
    target.unlink()
    return run


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
