"""The file of a disk whose last writes a loss of power takes: real FUSE, for a loop device.

    python -m tests.support.forgetful_device FILE PLACE

Shows FILE as `disk` in PLACE. What is written stays in memory until it is flushed, as in the cache
of a disk. When there is a file `cut` beside FILE, with a number in it, all programs have ended, and
nothing gets into FILE any more: what the kernel still writes then, until PLACE is unmounted, it may
have written by itself before the power was gone. That number draws between which two flushes that
was, and which sectors of what lies between them the disk has.
"""

import errno
import os
import random
import stat
import sys
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")

import mfusepy

#: What a disk writes whole or not at all.
_SECTOR: Final = 4096
_NAME: Final = "/disk"
CUT: Final = "cut"


class Cache:
    """What was written since the last flush, of which nobody knows what will be on the disk."""

    def __init__(self, file: Path) -> None:
        self._cut = file.with_name(CUT)
        self._file = os.open(file, os.O_RDWR)
        self.size = os.fstat(self._file).st_size
        #: The last part is what is not flushed; those before were, after the power was gone.
        self._parts: list[list[tuple[int, bytes]]] = [[]]

    def read(self, offset: int, size: int) -> bytes:
        found = bytearray(os.pread(self._file, size, offset))
        for begin, data in (each for part in self._parts for each in part):
            first, last = max(begin, offset), min(begin + len(data), offset + size)
            if first < last:
                found[first - offset : last - offset] = data[first - begin : last - begin]
        return bytes(found)

    def write(self, offset: int, data: bytes) -> None:
        self._parts[-1].append((offset, data))

    def flush(self) -> None:
        if self._cut.exists():
            self._parts.append([])
        else:
            self._keep(self._parts.pop())
            self._parts = [[]]

    def end(self) -> None:
        """The disk has what was drawn; all, if the power is not gone."""
        if not self._cut.exists():
            self.flush()
            return
        drawn = random.Random(self._cut.read_text(encoding="ascii"))
        last = drawn.choice((0, drawn.randrange(len(self._parts))))
        for part in self._parts[:last]:
            self._keep(part)
        share = drawn.choice((0.0, 0.5, 1.0, drawn.random()))
        self._keep([each for each in self._sectors(last) if drawn.random() < share])

    def _sectors(self, part: int) -> list[tuple[int, bytes]]:
        return [
            (begin + at, data[at : at + _SECTOR])
            for begin, data in self._parts[part]
            for at in range(0, len(data), _SECTOR)
        ]

    def _keep(self, written: list[tuple[int, bytes]]) -> None:
        for offset, data in written:
            os.pwrite(self._file, data, offset)


class Operations(mfusepy.Operations):  # type: ignore[misc]
    """One file."""

    use_ns = True

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path != _NAME:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": self._cache.size}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", _NAME[1:]]

    def open(self, path: str, flags: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return self._cache.read(offset, size)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._cache.write(offset, data)
        return len(data)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._cache.flush()
        return 0


if __name__ == "__main__":
    cache = Cache(Path(sys.argv[1]))
    served = Operations(cache)
    mfusepy.FUSE(served, sys.argv[2], foreground=True, nothreads=True, subtype="vmbackup-test")
    cache.end()
