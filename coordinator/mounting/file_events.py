"""Whether anybody opens or reads a file of this host, as the kernel tells (inotify of Linux).

The server of the file need not be one of ours. Equal events are told once, so files that are open
cannot be counted by them.
"""

import ctypes
import os
from pathlib import Path
from typing import Final, Self

_ACCESS, _CLOSE_WRITE, _CLOSE, _OPEN = 0x1, 0x8, 0x10, 0x20
_MASK: Final = _ACCESS | _CLOSE_WRITE | _CLOSE | _OPEN
_AT_ONCE: Final = 1 << 16


class FileEvents:
    """Those of some files. Close it."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._kernel = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._checked(
            self._kernel.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def add(self, path: Path) -> None:
        """Also those of this file from now on. Raises OSError."""
        self._checked(
            self._kernel.inotify_add_watch(self._descriptor, os.fsencode(path), _MASK), str(path)
        )

    def any(self) -> bool:
        """Whether there was any since it was last asked."""
        try:
            return bool(os.read(self._descriptor, _AT_ONCE))
        except BlockingIOError:
            return False

    @staticmethod
    def _checked(answer: int, what: str) -> int:
        if answer < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), what)
        return answer
