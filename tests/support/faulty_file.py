"""A file of which a part cannot be read for a while, as when the NAS has gone away: real FUSE.

    python -m tests.support.faulty_file FILE PLACE FLAG BEGIN END

Shows FILE in PLACE. As long as there is a file FLAG, reading from byte BEGIN to END fails.
"""

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")

import mfusepy


class Operations(mfusepy.Operations):  # type: ignore[misc]
    """Reads one file."""

    use_ns = True

    def __init__(self, file: Path, flag: Path, begin: int, end: int) -> None:
        self._name, self._flag, self._begin, self._end = file.name, flag, begin, end
        self._file, self._looked = os.open(file, os.O_RDONLY), file.stat()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path[1:] != self._name:
            raise mfusepy.FuseOSError(errno.ENOENT)
        moment = self._looked.st_mtime_ns
        found = {"st_mode": stat.S_IFREG | 0o444, "st_nlink": 1, "st_size": self._looked.st_size}
        return {**found, "st_mtime": moment, "st_ctime": moment, "st_atime": moment}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", self._name]

    def open(self, path: str, flags: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        if offset < self._end and offset + size > self._begin and self._flag.exists():
            raise mfusepy.FuseOSError(errno.EIO)
        return os.pread(self._file, size, offset)


def main(file: str, place: str, flag: str, begin: str, end: str) -> None:
    """The program."""
    served = Operations(Path(file), Path(flag), int(begin), int(end))
    mfusepy.FUSE(served, place, foreground=True, ro=True, subtype="vmbackup-test", direct_io=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
