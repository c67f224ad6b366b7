"""A directory of this user, held open: its files are reached by it, wherever its path leads now.

Whoever may write to a directory on the way to it can put another one in its place at any moment.
"""

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final, Self

#: What tells a file from another of the same name.
Signs = tuple[int, ...]
_LONGEST_NAME: Final = 255
_FILE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def is_name(text: str) -> bool:
    """Whether it is the name of one file in a directory, and leads nowhere else."""
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return data not in (b".", b"..") and 0 < len(data) <= _LONGEST_NAME and not set(data) & {0, 47}


class OwnDirectory:
    """One that belongs to the user who runs this, root too. Only their own files count in it."""

    def __init__(self, place: Path) -> None:
        """Raises PermissionError if it is another user's, OSError (also if it is a link)."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self.path, self._directory = place, os.open(place, flags)
        self._found = os.fstat(self._directory)
        if self._found.st_uid != os.geteuid():
            self.close()
            raise PermissionError(f"{place} is a directory of another user")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of it."""
        os.close(self._directory)

    @property
    def others_may_write(self) -> bool:
        """Whether others can put files there; those of the user's own group may."""
        foreign = self._found.st_gid != os.getegid()
        return bool(self._found.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if foreign else 0)))

    def make(self, name: str) -> BinaryIO:
        """A new file, for this user alone. Raises FileExistsError, OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE
        return os.fdopen(os.open(name, flags, 0o600, dir_fd=self._directory), "w+b")

    def open(self, name: str) -> BinaryIO:
        """A plain file of this user, to read and write. Raises OSError."""
        file = os.fdopen(os.open(name, os.O_RDWR | _FILE, dir_fd=self._directory), "r+b")
        if not _own(os.fstat(file.fileno())):
            file.close()
            raise PermissionError(f"{self.path / name} is another user's, or has other names")
        return file

    def has(self, name: str, file: BinaryIO) -> bool:
        """Whether the open file is the one that has this name."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(file.fileno()), self._look(name))
        return False

    def signs(self, name: str) -> Signs:
        """Those of a file. Raises OSError."""
        return _signs(self._look(name))

    def remove(self, name: str, signs: Signs | None = None) -> None:
        """Removes a plain file of this user that has no other name; with `signs`, if it has them.

        Nothing is said of one that stays.
        """
        with contextlib.suppress(OSError):
            found = self._look(name)
            if _own(found) and signs in (None, _signs(found)):
                os.unlink(name, dir_fd=self._directory)

    def _look(self, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self._directory, follow_symlinks=False)


def lock(file: BinaryIO, *, shared: bool = False) -> bool:
    """Locks an open file, if nobody else has it locked."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(file: BinaryIO) -> None:
    """Locks an open file; waits as long as somebody else has it locked."""
    fcntl.flock(file, fcntl.LOCK_EX)


def _own(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1


def _signs(found: os.stat_result) -> Signs:
    return (found.st_ino, found.st_size, found.st_mtime_ns, stat.S_IFMT(found.st_mode))
