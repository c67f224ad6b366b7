"""New files of this host: each begins empty, under a name that nothing there has."""

import contextlib
import errno
import os
from collections.abc import Iterable
from typing import Final

_MOST_ALIKE: Final = 1000
_INCOMPLETE: Final = ".incomplete"


class NewFile:
    """A file that is being written, beside the empty one that has its name."""

    def __init__(self, root: int, place: str, size: int, mode: int, modified: int) -> None:
        self.size = size
        self._root, self._place, self._mode, self._modified = root, place, mode, modified
        self._descriptor, self._partial = create_alike(root, "", place + _INCOMPLETE)
        self._written = False

    def write(self, position: int, data: bytes) -> None:
        """Zeros are left out: there they are read all the same, and take no room."""
        view = memoryview(data)
        if data == bytes(len(data)):
            return
        self._written = True
        while view:
            written = os.pwrite(self._descriptor, view, position)
            position, view = position + written, view[written:]

    def finish(self) -> None:
        """Gives it its name. Raises OSError, and then it is as `leave` leaves it."""
        try:
            os.ftruncate(self._descriptor, self.size)
            os.utime(self._descriptor, (self._modified, self._modified))
            os.fchmod(self._descriptor, self._mode)
        except OSError:
            self.leave()
            raise
        os.close(self._descriptor)
        os.rename(self._partial, self._place, src_dir_fd=self._root, dst_dir_fd=self._root)

    def leave(self) -> None:
        """Leaves what there is of it, as `.incomplete`; nothing, if there is nothing."""
        os.close(self._descriptor)
        with contextlib.suppress(OSError):
            os.unlink(self._place, dir_fd=self._root)
            if not self._written:
                os.unlink(self._partial, dir_fd=self._root)


def create_alike(root: int, parent: str, wanted: str) -> tuple[int, str]:
    """A new empty file, open for writing, called `wanted` or nearly so, and its place."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    for name in alike(wanted):
        place = f"{parent}/{name}" if parent else name
        with contextlib.suppress(FileExistsError):
            return os.open(place, flags, 0o600, dir_fd=root), place
    raise too_many()


def alike(name: str) -> Iterable[str]:
    """This name, and those that are tried when there is such a file already."""
    yield name
    yield from (f"{name}~{number}" for number in range(2, _MOST_ALIKE))


def too_many() -> FileExistsError:
    """What is raised when all of these are taken."""
    return FileExistsError(errno.EEXIST, "too many files are called so")
