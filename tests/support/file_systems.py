"""Real file systems for tests that need one of a certain kind; they end with the test."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.ordinary.mounts import KINDS, Mounts, possible
from tests.support.packages import require

_PACKAGES: Final = {"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}
_SIZE: Final = 400 << 20
#: Kinds with reflinks. On a compressing btrfs extents prove nothing.
REFLINKING: Final = ("xfs", "btrfs", "btrfs-compressed")


@contextmanager
def mounted(kind: str, folder: Path) -> Iterator[Path]:
    """An empty file system of a kind of `REFLINKING`, or `ext4`, mounted below `folder`.

    Skips the test where this process may not mount; fails it in CI.
    """
    if not possible():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("a file system needs root")
    plain, _, compressed = kind.partition("-")
    require(KINDS[plain][0], _PACKAGES[plain])
    mounts, place = Mounts(), folder / kind
    options = ",compress-force=zstd" if compressed else ""
    mounts.file_system(plain, folder / f"{kind}.image", place, options, _SIZE)
    try:
        yield place
    finally:
        mounts.end()


def read_by_this_process() -> int:
    """Bytes that this process has read, from whatever is mounted, as the kernel counts them."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("rchar")))
