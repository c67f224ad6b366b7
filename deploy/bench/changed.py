"""What a copy costs with `backup.changed = "auto"`, beside one with `"off"`, and beside others.

Backups by the worker on two file systems of one kind, one for the disk and one as the NAS;
VirtualBox is simulated, the engine and its work are not. restic and borg back up the same disk,
where they are installed, and the real VBoxManage exports it, where there is one: whole, so not
after each change. The kernel counts what is read from each file system and written to it
(`/sys/dev/block`), after its caches were dropped. What the NAS reads includes what it copies by
itself. Needs root.

    python -m deploy.bench.changed [--mib 4096] [--data-mib 3072] [--kind xfs] [--alone]
"""

import argparse
import enum
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

from deploy.bench import vboxmanage_peer
from deploy.bench.costs import Cost, cost
from deploy.bench.peers import PEERS, prepare
from deploy.bench.report import Report
from deploy.bench.second_copies import CHANGED, change, change_blocks, real_files
from deploy.bench.wire import fill
from tests.ordinary.mounts import KINDS, Mounts, available
from tests.support.fleet import Fleet, Member
from tests.support.simulated import SimulatedHost

#: What is wanted of a second copy with so many percent changed, against the whole copy: of its wall
#: time, for each way in which they lie, of its CPU time, and of the disk, and of the copy received.
_AIMED_AT: Final = 2
_WALL: Final = {"grains": 4.0, "whole blocks": 8.0}
_CPU: Final = 10.0
_PERCENT: Final = 4.0
_LOCKED_SECONDS: Final = 1.0
#: The kind whose figures are judged.
_JUDGED: Final = "xfs"

#: All programs that can be measured beside it.
ALL: Final = (vboxmanage_peer.NAME, *PEERS)


class Aims(enum.Enum):
    """Which aims are judged: those for a local NAS, those for one over a network, or none."""

    NONE = enum.auto()
    LOCAL = enum.auto()
    NETWORK = enum.auto()


#: Makes ready for the n-th backup of a disk, and answers what makes it.
Backup = Callable[[int], Callable[[], float | None]]


@dataclass(frozen=True)
class Size:
    """Of a disk in MiB, and of the real files on it: three quarters, unless it is said."""

    mib: int
    data: int

    @classmethod
    def of(cls, mib: int, data: int | None = None) -> Self:
        """See the class."""
        return cls(mib, data or mib * 3 // 4)

    @property
    def needed(self) -> int:
        """MiB of a file system that has them for each way, and what is changed."""
        return 8 * min(self.mib, self.data * 4 // 3) + 800

    def __str__(self) -> str:
        return f"{self.mib} MiB, {self.data} of them real files; each change comes on top."


def measure(
    report: Report,
    size: Size,
    *,
    kinds: Iterable[str] = tuple(KINDS),
    nas_kind: str = "",
    peers: Iterable[str] = ALL,
) -> None:
    """Prints them one after the other; says so where it cannot be measured.

    `nas_kind`: the file system of the NAS, if it is another one than that of the disk.
    """
    for kind in kinds:
        pair = {"disks": kind, "nas": nas_kind or kind}
        on_nas = f", NAS on {nas_kind}" if nas_kind else ""
        report.heading(f"Only what changed, on {kind}{on_nas}", str(size))
        if not all(map(available, pair.values())):
            report.figure("left out", "it needs root, and the programs of these file systems")
            continue
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            mounts = Mounts()
            stack.callback(mounts.end)
            places = {}
            for name, own in pair.items():
                places[name] = Path(folder) / name
                image = Path(folder) / f"{name}.image"
                mounts.file_system(own, image, places[name], "", size.needed << 20)
            aims = Aims.LOCAL if set(pair.values()) == {_JUDGED} else Aims.NONE
            measure_at(report, places["disks"], places["nas"], size, aims=aims, peers=peers)


def measure_at(
    report: Report,
    disks: Path,
    nas: Path,
    size: Size,
    *,
    aims: Aims,
    peers: Iterable[str] = ALL,
    contents: Callable[[int], Iterable[bytes]] = real_files,
) -> None:
    """Prints them for two mounted file systems, and beside them what others need, `peers`.

    `contents` makes so many bytes for the disk.
    """
    ours = _ours(disks, nas, size)
    for disk, _ in ours.values():
        fill(disk, size.data, contents)
    with ExitStack() as stack:
        ways = ours | _others(report, disks, nas, peers, stack)
        for disk, _ in ways.values():
            if not disk.exists():
                shutil.copyfile(next(iter(ours.values()))[0], disk)
        for number, (percent, how) in enumerate(_steps()):
            found = {}
            for way, (disk, back_up) in ways.items():
                if percent:
                    (change if how == "grains" else change_blocks)(disk, percent / 100)
                if way == vboxmanage_peer.NAME and percent not in (None, _AIMED_AT):
                    continue  # it always does the same, and takes its time
                os.utime(disk)
                found[way] = cost(back_up(number), disks, nas)
                report.figure(f"{_named(percent, how)}, {way}", str(found[way]))
            if aims is not Aims.NONE and percent == _AIMED_AT:
                _judge(report, found, how, size.data << 20, aims)


def _steps() -> Iterator[tuple[int | None, str]]:
    """The first copy, and how much is changed before each other one, and how it lies.

    Little first: what is scattered leaves a disk in many extents, which later copies go through.
    """
    yield None, ""
    yield 0, ""
    changed = [percent for percent in CHANGED if percent]
    yield from itertools.product(changed, ["whole blocks", "grains"])


def _named(percent: int | None, how: str) -> str:
    if percent is None:
        return "first copy"
    return f"{percent} % of the {how} changed" if percent else "nothing changed"


def _ours(disks: Path, nas: Path, size: Size) -> dict[str, tuple[Path, Backup]]:
    host = SimulatedHost(disks / "hosts", "alpha")
    member = Fleet(disks, nas=nas / "backups").add(host)
    member.configure("backup", engine="parallel", keep_last=1)
    found: dict[str, tuple[Path, Backup]] = {}
    for way in ("off", "auto"):
        vm = host.make_vm(f"web-{way}", mib=size.mib, random_mib=size.data)
        member.configure(f'policy."{vm.name}"', changed=way)
        found[f'"{way}"'] = vm.disk, partial(_ready, member, vm.name)
    return found


def _others(
    report: Report, disks: Path, nas: Path, names: Iterable[str], stack: ExitStack
) -> dict[str, tuple[Path, Backup]]:
    """Other programs, those that are here; the `stack` removes what they need."""
    found: dict[str, tuple[Path, Backup]] = {}
    if vboxmanage_peer.NAME in names:
        disk = disks / "vboxmanage.vdi"
        try:
            found[vboxmanage_peer.NAME] = disk, vboxmanage_peer.prepare(disk, disks, nas, stack)
        except FileNotFoundError as reason:
            report.figure("VBoxManage left out", str(reason))
    for name in PEERS:
        if name not in names:
            continue
        disk = disks / f"{name}.vdi"
        try:
            found[name] = disk, prepare(name, disk, disks, nas)
        except FileNotFoundError as reason:
            report.figure(f"{name} left out", str(reason))
    return found


def _judge(report: Report, found: Mapping[str, Cost], how: str, data: int, aims: Aims) -> None:
    whole, changed = found['"off"'], found['"auto"']
    report.judged("of the disk read", 100 * changed.disk_read / data, "%", _PERCENT)
    if aims is Aims.NETWORK:
        # a whole copy is read back whole; a local NAS reads what it copies by itself, too
        received = 100 * changed.nas_read / whole.nas_read
        report.judged("of the copy received", received, "%", _PERCENT)
        return  # in the guest of the test bed each system call takes many times what it should
    report.judged("locked", changed.locked, "s", _LOCKED_SECONDS)
    report.judged("wall, of the whole copy's", changed.wall / whole.wall, "parts", 1 / _WALL[how])
    report.judged("CPU, of the whole copy's", changed.cpu / whole.cpu, "parts", 1 / _CPU)
    for name in PEERS:
        if name in found:
            parts = changed.wall / found[name].wall
            report.judged(f"wall, of {name}'s", parts, "parts", 1)


def _ready(member: Member, name: str, _: int) -> Callable[[], None]:
    for worker in ("vmfind", "notifier"):
        member.worker(worker)
    return partial(_backup, member, name)


def _backup(member: Member, name: str) -> None:
    ran = member.run("vmbackup-worker", "backup", "--vm", name, timeout=3600)
    if ran.status:
        raise SystemExit(f"the backup failed:\n{ran.stdout}{ran.stderr}")


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.bench.changed", description=__doc__)
    parser.add_argument("--mib", type=int, default=4096, help="size of the disk")
    parser.add_argument("--data-mib", type=int, help="of them real files; else three quarters")
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="file systems")
    parser.add_argument("--nas-kind", choices=sorted(KINDS), default="", help="that of the NAS")
    parser.add_argument("--alone", action="store_true", help="without other programs")
    given = parser.parse_args()
    size = Size.of(given.mib, given.data_mib)
    peers = () if given.alone else ALL
    kinds = tuple(given.kind or KINDS)
    measure(Report(), size, kinds=kinds, nas_kind=given.nas_kind, peers=peers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
