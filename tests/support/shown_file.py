"""One file in a directory of its own, by FUSE: how it is read is for others to say."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")

import mfusepy


class ShownFile(mfusepy.Operations):  # type: ignore[misc]
    """It looks like `file`. A subclass reads."""

    use_ns = True

    def __init__(self, file: Path) -> None:
        self._name, self._looked = file.name, file.stat()

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


def show(served: ShownFile, place: str) -> None:
    """Serves until it is unmounted."""
    mfusepy.FUSE(served, place, foreground=True, ro=True, subtype="vmbackup-test", direct_io=True)
