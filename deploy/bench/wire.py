"""What a second copy costs on the wire.

Backups by the worker to a real NFS 4.2 mount, the bytes counted by the kernel.

    python -m deploy.bench.wire [--mib 128]

The mount is one of the NAS test bed, so that it needs root on Debian; VirtualBox is simulated, the
engine and its work are not.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from deploy.bench.report import Report
from deploy.bench.second_copies import CHANGED, change, data_start, real_files
from deploy.testbed.nas.packages import TestBedError, fetch_packages
from deploy.testbed.nas.traffic import sent
from shared.copies import catalogue
from tests.support.fleet import Fleet
from tests.support.simulated import SimulatedHost

_MOUNT: Final = Path("/mnt/nfs-a")
_LIMIT_SECONDS: Final = 600


def measure(report: Report, *, mib: int) -> None:
    """Prints the bytes; says so where there is no test bed."""
    report.heading(
        "Second copies on the wire",
        f"{mib} MiB of real files, to an NFS 4.2 mount: WRITE of /proc/self/mountstats.",
    )
    try:
        fetch_packages()
    except TestBedError as reason:
        report.figure("left out", str(reason))
        return
    options = ["--memory-mib", "2048", "--disk-mib", str(8 * mib), "--limit", str(_LIMIT_SECONDS)]
    command = [sys.executable, "-m", "deploy.bench.wire", "--here", "--mib", str(mib)]
    subprocess.run(
        [sys.executable, "-m", "deploy.testbed.nas.launcher", *options, "--", *command], check=True
    )


def measure_here(report: Report, mib: int) -> None:
    """In the guest: a first copy, then one after each change."""
    with tempfile.TemporaryDirectory() as folder:
        host = SimulatedHost(Path(folder) / "hosts", "alpha")
        nas = _MOUNT / "bench"
        member = Fleet(Path(folder), nas=nas).add(host)
        member.configure("backup", engine="parallel")
        disk = host.make_vm("web01", mib=mib, random_mib=mib - 1).disk
        fill(disk, mib - 1)
        for percent in (None, *CHANGED):
            if percent:
                change(disk, percent / 100)
            os.utime(disk)  # used, whether or not anything was changed
            calls, before = sent(_MOUNT, "WRITE")
            copies, _ = sent(_MOUNT, "COPY")
            member.worker("run")
            (*_, copy) = catalogue.read(nas / "web01", None).good
            written = sent(_MOUNT, "WRITE")[1] - before
            text = (
                f"{written / 1e6:.1f} MB in {sent(_MOUNT, 'WRITE')[0] - calls} WRITE, "
                f"{sent(_MOUNT, 'COPY')[0] - copies} COPY"
            )
            name = "first copy" if percent is None else f"{percent} % of the grains changed"
            report.figure(name, f"{text}, for a copy of {copy.size / 1e6:.1f} MB")


def fill(disk: Path, mib: int, contents: Callable[[int], Iterable[bytes]] = real_files) -> None:
    """Puts so many MiB of `contents`, real files, where the disk has data."""
    with disk.open("r+b") as file:
        file.seek(data_start(file))
        for data in contents(mib * 2**20):
            file.write(data)


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.bench.wire", description=__doc__)
    parser.add_argument("--mib", type=int, default=128, help="size of the disk")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    report = Report()
    if given.here:
        measure_here(report, given.mib)
    else:
        measure(report, mib=given.mib)
    return 0


if __name__ == "__main__":
    sys.exit(main())
