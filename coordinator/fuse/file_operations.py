"""What the kernel may ask of served files. For their servers alone: libfuse is loaded here."""

import errno
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import mfusepy


class Sized(Protocol):
    """A file that is served."""

    @property
    def size(self) -> int:
        """How many bytes it has."""


class Operations(mfusepy.Operations):  # type: ignore[misc]
    """Looks and reads; all else is refused by libfuse.

    `files` by their names; `read` answers bytes of one, from an offset on. `moment` is when they
    changed last, in nanoseconds. `ready` is called when they are mounted, `used` when something is
    asked for: with 1 for a file that is opened, -1 for its end. `number_of` says which error the
    kernel is told of what `read` raises.
    """

    use_ns = True

    def __init__(
        self,
        files: Mapping[str, Sized],
        read: Callable[[str, int, int], bytes],
        *,
        moment: int,
        ready: Callable[[], None],
        used: Callable[[int], None] = lambda _opened: None,
        number_of: Callable[[Exception], int] = lambda _error: errno.EIO,
    ) -> None:
        self._files, self._read, self._ready, self._used = files, read, ready, used
        self._number_of = number_of
        self._own = {"st_uid": os.getuid(), "st_gid": os.getgid(), "st_mtime": moment}
        self._own |= {"st_ctime": moment, "st_atime": moment}

    def init(self, path: str) -> None:  # noqa: ARG002 - of the kernel, as all that follows
        """The kernel has mounted it."""
        self._ready()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:  # noqa: ARG002
        """What `stat` shows."""
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o500, "st_nlink": 2, **self._own}
        file = self._files.get(path[1:])
        if file is None:
            raise mfusepy.FuseOSError(errno.ENOENT)
        size = {"st_size": file.size, "st_blocks": -(-file.size // 512)}
        return {"st_mode": stat.S_IFREG | 0o400, "st_nlink": 1, **size, **self._own}

    def readdir(self, path: str, fh: int) -> list[str]:  # noqa: ARG002
        """The names."""
        self._used(0)
        return [".", "..", *self._files]

    def open(self, path: str, flags: int) -> int:
        """Only for reading."""
        if path[1:] not in self._files:
            raise mfusepy.FuseOSError(errno.ENOENT)
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise mfusepy.FuseOSError(errno.EROFS)
        self._used(1)
        return 0

    def release(self, path: str, fh: int) -> int:  # noqa: ARG002
        """Nobody has the file open any more."""
        self._used(-1)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:  # noqa: ARG002
        """The bytes; whatever is wrong is an error of reading, never zeros."""
        self._used(0)
        try:
            return self._read(path[1:], offset, size)
        except Exception as error:  # noqa: BLE001 - the kernel takes nothing but a number
            raise mfusepy.FuseOSError(self._number_of(error)) from None
