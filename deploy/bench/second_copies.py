"""What a second copy of a disk costs when little has changed, and several VMs at a time.

By the parallel engine, on a local directory.

What is not copied here is what goes over the wire on NFS 4.2; `deploy.bench.wire` counts it there.
"""

import hashlib
import os
import random
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from deploy.bench.report import Report, spread
from shared.export.delta import DeltaPlan
from shared.export.parallel import ParallelExporter
from shared.host.clock import SystemClock
from shared.host.processes import SubprocessRunner
from shared.ova.vmdk import GRAIN
from shared.virtualbox.inventory import take_inventory
from shared.virtualbox.vboxmanage import VBoxManage
from tests.support.virtualbox import RealHost

#: Grains that a guest has written to since the copy before, in percent, all over the disk.
CHANGED: Final = (0, 2, 20)
SEVERAL: Final = 3
_BLOCK: Final = 1 << 20


def measure_changes(report: Report, host: RealHost, uuid: str, disk: Path) -> None:
    """Prints how much of a second copy is sent, and how long it takes."""
    manager = VBoxManage(str(host.vboxmanage), SubprocessRunner(), 120)
    machine = take_inventory(manager, host.home, time.sleep)[uuid]
    previous: Path | None = None
    for number, percent in enumerate((None, *CHANGED)):
        if percent is not None:
            change(disk, percent / 100)
        target = host.folder / f"change-{number}.ova"
        plan = DeltaPlan(
            index_of(target), previous, index_of(previous) if previous else None, whole_every=1000
        )
        exporter = ParallelExporter(
            manager,
            SystemClock(),
            scratch=host.folder / "scratch",
            cores=os.cpu_count() or 1,
            plan=plan,
        )
        began = time.monotonic()
        export = exporter.start(machine, target)
        while not export.poll():
            time.sleep(0.01)
        copied = export.result().copied
        seconds, size = time.monotonic() - began, target.stat().st_size
        name = "first copy, with index" if percent is None else f"{percent} % of the grains changed"
        index = index_of(target).stat().st_size
        report.figure(
            name,
            (
                f"{(size - copied) / 1e6:.1f} MB of {size / 1e6:.0f} sent, {seconds:.1f} s, index "
                f"{index / 1e6:.1f} MB"
            ),
        )
        if previous:
            previous.unlink()
            index_of(previous).unlink()
        previous = target
    if previous:
        previous.unlink()


def index_of(copy: Path) -> Path:
    """Where the index of a copy is."""
    return copy.with_suffix(".index")


def change(disk: Path, part: float) -> None:
    """Writes 4 KiB into so many of the grains that a VDI file holds, always the same ones."""
    with disk.open("r+b") as file:
        start = data_start(file)
        grains = (file.seek(0, os.SEEK_END) - start) // GRAIN
        for grain in random.Random(1).sample(range(grains), round(part * grains)):
            file.seek(start + grain * GRAIN + GRAIN // 2)
            file.write(os.urandom(4096))


def change_blocks(disk: Path, part: float) -> None:
    """Writes so many of the blocks that a VDI file holds anew, always the same ones."""
    with disk.open("r+b") as file:
        start = data_start(file)
        blocks = (file.seek(0, os.SEEK_END) - start) // _BLOCK
        for block in random.Random(2).sample(range(blocks), round(part * blocks)):
            file.seek(start + block * _BLOCK)
            data = bytearray(file.read(_BLOCK))
            data[::64] = os.urandom(len(data[::64]))
            file.seek(start + block * _BLOCK)
            file.write(data)


def data_start(file: BinaryIO) -> int:
    """Where a VDI file holds its first block."""
    file.seek(0x158)
    (start,) = struct.unpack("<I", file.read(4))
    return int(start)


def real_files(size: int) -> Iterator[bytes]:
    """`size` bytes of files of /usr, in an order that mixes all kinds; then zeros.

    Each file is filled up to a multiple of 4 KiB.
    """
    found = (Path(place) / name for place, _, names in os.walk("/usr") for name in names)
    mixed = sorted(
        (path for path in found if path.is_file() and not path.is_symlink()),
        key=lambda path: hashlib.sha256(os.fsencode(path)).digest(),
    )
    left = size
    for path in mixed:
        if not left:
            return
        data = path.read_bytes()[:left]
        data = (data + bytes(-len(data) % 4096))[:left]
        left -= len(data)
        yield data
    yield bytes(left)


def measure_several(
    report: Report, export: Callable[[int], "subprocess.Popen[bytes]"], rounds: int
) -> None:
    """`export` starts the export of one of `SEVERAL` VMs in a process of its own.

    Prints the time of all, one by one and at once.
    """
    one_by_one, at_once = [], []
    for _ in range(rounds):
        began = time.monotonic()
        for number in range(SEVERAL):
            _wait(export(number))
        one_by_one.append(time.monotonic() - began)
        began = time.monotonic()
        for process in [export(number) for number in range(SEVERAL)]:
            _wait(process)
        at_once.append(time.monotonic() - began)
    report.figure(f"{SEVERAL} VMs one after the other", spread(one_by_one))
    report.figure(f"{SEVERAL} VMs at once", spread(at_once))


def _wait(process: "subprocess.Popen[bytes]") -> None:
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, process.args)
