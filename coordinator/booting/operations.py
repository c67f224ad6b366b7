"""What the kernel may ask of served disks. For their server alone: libfuse is loaded here."""

import errno
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

import mfusepy

from coordinator.booting.served_disk import ServedDisk


class Operations(mfusepy.Operations):  # type: ignore[misc]
    """Looks and reads; all else is refused by libfuse. `ready` is called when it is mounted."""

    use_ns = True

    def __init__(self, disks: Mapping[str, ServedDisk], ready: Callable[[], None]) -> None:
        self._disks, self._ready = disks, ready
        moment = max(disk.path.stat().st_ctime_ns for disk in disks.values())
        self._own = {"st_uid": os.getuid(), "st_gid": os.getgid(), "st_mtime": moment}
        self._own |= {"st_ctime": moment, "st_atime": moment}

    def init(self, path: str) -> None:  # noqa: ARG002 - of the kernel, as all that follows
        """The kernel has mounted it."""
        self._ready()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:  # noqa: ARG002
        """What `stat` shows."""
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o500, "st_nlink": 2, **self._own}
        disk = self._disks.get(path[1:])
        if disk is None:
            raise mfusepy.FuseOSError(errno.ENOENT)
        size = {"st_size": disk.size, "st_blocks": -(-disk.size // 512)}
        return {"st_mode": stat.S_IFREG | 0o400, "st_nlink": 1, **size, **self._own}

    def readdir(self, path: str, fh: int) -> list[str]:  # noqa: ARG002
        """The names."""
        return [".", "..", *self._disks]

    def open(self, path: str, flags: int) -> int:
        """Only for reading."""
        if path[1:] not in self._disks:
            raise mfusepy.FuseOSError(errno.ENOENT)
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise mfusepy.FuseOSError(errno.EROFS)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:  # noqa: ARG002
        """The bytes; whatever is wrong is an error of reading, never zeros."""
        try:
            return self._disks[path[1:]].read(offset, size)
        except Exception:  # noqa: BLE001 - a program that reads a file knows no more than EIO
            raise mfusepy.FuseOSError(errno.EIO) from None
