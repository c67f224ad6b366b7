"""What a copy costs with `backup.changed = "auto"`, beside one with `"off"`.

Backups by the worker on two XFS of their own, one for the disk and one as the NAS; VirtualBox is
simulated, the engine and its work are not. The kernel counts what is read from each file system and
written to it (`/sys/dev/block`), after its caches were dropped. What the NAS reads includes what it
copies by itself. Needs root.

    python -m deploy.bench.changed [--mib 4096]
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.bench.report import Report
from deploy.bench.second_copies import CHANGED, change
from deploy.bench.wire import fill
from tests.ordinary.mounts import Mounts, possible
from tests.support.fleet import Fleet, Member
from tests.support.simulated import SimulatedHost

_SECTOR: Final = 512
#: What is wanted of a second copy with 2 % changed (scattered grains), against the whole copy.
_AIMED_AT: Final = 2
_WALL: Final = 4.0
_CPU: Final = 10.0
_PERCENT: Final = 4.0


@dataclass(frozen=True)
class Cost:
    """Of one backup: seconds, and bytes by the kernel's count."""

    wall: float
    cpu: float
    disk_read: int
    nas_read: int
    nas_written: int

    def __str__(self) -> str:
        return (
            f"{self.wall:.1f} s, {self.cpu:.1f} CPU s; MB read from the disk "
            f"{self.disk_read / 1e6:.1f}, from the NAS {self.nas_read / 1e6:.1f}, written there "
            f"{self.nas_written / 1e6:.1f}"
        )


def measure(report: Report, *, mib: int) -> None:
    """Prints both, one after the other, with ratios; says so where it cannot be measured."""
    report.heading(
        "Only what changed",
        f"{mib} MiB, three quarters of them real files; second copies, scattered grains; XFS.",
    )
    if not possible():
        report.figure("left out", "a file system of one's own needs root")
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        mounts = Mounts()
        stack.callback(mounts.end)
        places = {}
        for name in ("disks", "nas"):
            places[name] = Path(folder) / name
            image = Path(folder) / f"{name}.image"
            mounts.file_system("xfs", image, places[name], "", (5 * mib + 600) << 20)
        _measure(report, places["disks"], places["nas"], mib)


def _measure(report: Report, disks: Path, nas: Path, mib: int) -> None:
    host = SimulatedHost(disks / "hosts", "alpha")
    member = Fleet(disks, nas=nas / "backups").add(host)
    data = mib * 3 // 4
    vms = {way: host.make_vm(f"web-{way}", mib=mib, random_mib=data) for way in ("off", "auto")}
    member.configure("backup", engine="parallel", keep_last=1)
    for way, vm in vms.items():
        member.configure(f'policy."{vm.name}"', changed=way)
        fill(vm.disk, data)
    for percent in (None, *CHANGED):
        found = {}
        for way, vm in vms.items():
            if percent:
                change(vm.disk, percent / 100)
            os.utime(vm.disk)
            found[way] = _backup(member, vm.name, disks, nas)
            name = "first copy" if percent is None else f"{percent} % of the grains changed"
            report.figure(f'{name}, "{way}"', str(found[way]))
        if percent == _AIMED_AT:
            _judge(report, found["off"], found["auto"], data << 20)


def _judge(report: Report, whole: Cost, changed: Cost, data: int) -> None:
    report.judged("wall, of the whole copy's", changed.wall / whole.wall, "parts", 1 / _WALL)
    report.judged("CPU, of the whole copy's", changed.cpu / whole.cpu, "parts", 1 / _CPU)
    report.judged("of the disk read", 100 * changed.disk_read / data, "%", _PERCENT)


def _backup(member: Member, name: str, disks: Path, nas: Path) -> Cost:
    for worker in ("vmfind", "notifier"):
        member.worker(worker)
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    before, cpu, began = (_traffic(disks), _traffic(nas)), _cpu(), time.monotonic()
    ran = member.run("vmbackup-worker", "backup", "--vm", name, timeout=3600)
    wall, used = time.monotonic() - began, _cpu() - cpu
    if ran.status:
        raise SystemExit(f"the backup failed:\n{ran.stdout}{ran.stderr}")
    os.sync()
    here, there = _traffic(disks), _traffic(nas)
    return Cost(
        wall,
        used,
        here[0] - before[0][0],
        there[0] - before[1][0],
        there[1] - before[1][1],
    )


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _traffic(place: Path) -> tuple[int, int]:
    """Bytes that were read from a file system and written to it so far."""
    device = os.stat(place).st_dev
    name = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat"
    fields = Path(name).read_text(encoding="utf-8").split()
    return int(fields[2]) * _SECTOR, int(fields[6]) * _SECTOR


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.bench.changed", description=__doc__)
    parser.add_argument("--mib", type=int, default=4096, help="size of the disk")
    report = Report()
    measure(report, mib=parser.parse_args().mib)
    return 0


if __name__ == "__main__":
    sys.exit(main())
