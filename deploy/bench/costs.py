"""What one backup costs: seconds, and bytes as the kernel counts them for each file system.

Of a local one those that pass its device; of a NAS by NFS or SMB those that pass the network.
"""

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from deploy.bench.locks import LockWatch
from shared.nas.server_copy_probe import parse_cifs, parse_nfs

_SECTOR: Final = 512


@dataclass(frozen=True)
class Cost:
    """Of one backup: seconds, and bytes by the kernel's count."""

    wall: float
    cpu: float
    disk_read: int
    nas_read: int
    nas_written: int
    #: How long VirtualBox kept others from the VM.
    locked: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.wall:.1f} s, {self.cpu:.1f} CPU s; MB read from the disk "
            f"{self.disk_read / 1e6:.1f}, from the NAS {self.nas_read / 1e6:.1f}, written there "
            f"{self.nas_written / 1e6:.1f}"
            + (f"; locked {self.locked:.2f} s" if self.locked else "")
        )


def cost(work: Callable[[], float | None], disks: Path, nas: Path) -> Cost:
    """Of work that programs do which it waits for; caches are dropped before.

    It answers CPU seconds that others spent for it, if any did. `disks` and `nas` are mounted file
    systems. Needs root.
    """
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")
    before, used, began = (_traffic(disks), _traffic(nas)), _cpu(), time.monotonic()
    with LockWatch() as watch:
        others = work()
        wall, cpu = time.monotonic() - began, _cpu() - used + (others or 0.0)
    os.sync()
    here, there = _traffic(disks), _traffic(nas)
    return Cost(
        wall,
        cpu,
        here[0] - before[0][0],
        there[0] - before[1][0],
        there[1] - before[1][1],
        watch.seconds,
    )


def _cpu() -> float:
    """CPU seconds of programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Mounted(NamedTuple):
    """What is mounted somewhere."""

    filesystem: str
    device: str


def _traffic(place: Path) -> tuple[int, int]:
    """Bytes that were read from a mounted file system and written to it so far."""
    mounted = mounted_at(place, Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    if mounted.filesystem.startswith("nfs"):
        return parse_nfs(Path("/proc/self/mountstats").read_text(encoding="utf-8"), str(place))
    if mounted.filesystem == "cifs":
        return parse_cifs(Path("/proc/fs/cifs/Stats").read_text(encoding="utf-8"))
    device = os.stat(mounted.device).st_rdev  # files on btrfs do not tell
    name = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat"
    fields = Path(name).read_text(encoding="ascii").split()
    return int(fields[2]) * _SECTOR, int(fields[6]) * _SECTOR


def mounted_at(place: Path, mountinfo: str) -> _Mounted:
    """What is mounted there, by the kernel's list; of several the last one, which hides the others.

    Raises `ValueError` if nothing is.
    """
    for line in reversed(mountinfo.splitlines()):
        mount, _, source = line.partition(" - ")
        if mount.split()[4] == str(place):
            return _Mounted(*source.split()[:2])
    raise ValueError(f"nothing is mounted at {place}")
