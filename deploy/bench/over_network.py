"""What a copy costs with `backup.changed = "auto"` on a NAS by NFS 4.2 and by SMB.

As `deploy.bench.changed`, in a guest of the NAS test bed: server and client are one machine, so
that no network is slower than its memory. Its kernel runs as a process, where system calls take
many times what they should: bytes are to be trusted, seconds are not. The disks are on an XFS that
lies in memory. The bytes of the NAS are those that pass the mount, by the kernel's count. Needs
root on Debian.

    python -m deploy.bench.over_network [--mib 1024] [--kind nfs] [--alone]
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from deploy.bench.changed import Aims, Size, measure_at
from deploy.bench.peers import PEERS
from deploy.bench.report import Report
from deploy.bench.second_copies import real_files
from deploy.testbed.nas.packages import TestBedError, fetch_packages
from tests.ordinary.mounts import Mounts

KINDS: Final = ("nfs", "smb")
_LIMIT_SECONDS: Final = 7200
#: What the guest needs beside the disks, and what it caches of them.
_MEMORY_MIB: Final = 2048
_PIECE: Final = 1 << 20


def measure(
    report: Report, *, mib: int, kinds: tuple[str, ...] = KINDS, alone: bool = False
) -> None:
    """Prints them one after the other; says so where there is no test bed.

    `alone`: without other programs, for which a disk and a repository each would lie in memory.
    """
    for kind in kinds:
        report.heading(
            f"Only what changed, by {kind}",
            f"On XFS; {Size.of(mib)}",
        )
        try:
            fetch_packages()
        except TestBedError as reason:
            report.figure("left out", str(reason))
            return
        memory = _MEMORY_MIB + (5 if alone else 16) * mib // 2
        options = ["--memory-mib", str(memory), "--disk-mib", str(8 * mib)]
        limit = ["--limit", str(_LIMIT_SECONDS)]
        launcher = [sys.executable, "-m", "deploy.testbed.nas.launcher", *options, *limit]
        # The guest sees /usr as well, but keeps each file open that it has seen. Its /var/tmp and
        # /dev/shm are its own.
        with tempfile.NamedTemporaryFile(dir="/tmp") as file:
            file.writelines(real_files(mib << 20))
            file.flush()
            here = [sys.executable, "-u", "-m", "deploy.bench.over_network", "--here", file.name]
            words = ["--kind", kind, "--mib", str(mib), *(["--alone"] if alone else [])]
            subprocess.run([*launcher, "--", *here, *words], check=True)


def measure_here(report: Report, kind: str, mib: int, files: Path, *, alone: bool) -> None:
    """In the guest: by host A, whose mount of the NAS nobody else uses; `files`: their bytes."""
    subprocess.run(["modprobe", "-a", "loop", "xfs"], check=True)
    subprocess.run(["mount", "-o", "remount,size=90%", "/dev/shm"], check=True)
    mounts = Mounts()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        disks, image = Path(folder) / "disks", Path(folder) / "image"
        try:
            size = Size.of(mib)
            mounts.file_system("xfs", image, disks, "", size.needed << 20)
            nas = Path(f"/mnt/{kind}-a")
            measure_at(
                report,
                disks,
                nas,
                size,
                aims=Aims.NETWORK,
                peers=() if alone else PEERS,
                contents=partial(_bytes, files),
            )
        finally:
            mounts.end()


def _bytes(files: Path, size: int) -> Iterator[bytes]:
    with files.open("rb") as file:
        for position in range(0, size, _PIECE):
            yield file.read(min(_PIECE, size - position))


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.bench.over_network", description=__doc__
    )
    parser.add_argument("--mib", type=int, default=1024, help="size of the disk")
    parser.add_argument("--kind", choices=KINDS, action="append", help="ways to the NAS")
    parser.add_argument("--alone", action="store_true", help="without restic and borg")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        measure_here(Report(), given.kind[0], given.mib, given.here, alone=given.alone)
    else:
        kinds = tuple(given.kind or KINDS)
        measure(Report(), mib=given.mib, kinds=kinds, alone=given.alone)
    return 0


if __name__ == "__main__":
    sys.exit(main())
