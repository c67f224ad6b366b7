"""Looking at directories and files on the NAS.

Fresh on every kind of mount, never through a link, never waiting for a pipe.

Why a directory is listed before anything in it is opened, renamed or removed: an NFS client may
remember for a minute that a name is absent and then answers ENOENT to all three, although another
host has made it; opening and listing the directory asks the server (see docs/nas.md).
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC
#: Handles that another client's change has made stale: looking again gives fresh ones.
_STALE_ATTEMPTS: Final = 5
#: A directory that still changes after so many looks is in use by others in earnest.
_LOOKS_LIMIT: Final = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory, as a look without following links found it.

    `size` in bytes, `modified` in nanoseconds.

    `device` and `inode` tell two files apart. They do not tell whether it still is the same file:
    some mounts number files anew.
    """

    name: str
    size: int
    modified: int
    mode: int
    device: int = field(default=0, compare=False)
    inode: int = field(default=0, compare=False)

    @property
    def is_file(self) -> bool:
        """Whether it is an ordinary file: no link, directory, device or pipe."""
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


def look_twice(directory: Path) -> dict[str, Entry]:
    """Like `look`, until two looks in a row find the same names.

    For whoever is going to act because a name is absent.

    A listing is not one moment: a file that is renamed while it runs may be found under neither
    name (seen on a local disk).
    """
    entries = look(directory)
    for _ in range(_LOOKS_LIMIT):
        before, entries = entries, look(directory)
        if entries.keys() == before.keys():
            break
    return entries


def look(directory: Path) -> dict[str, Entry]:
    """What is in a directory, by name; empty if there is no such directory.

    Fresh on every mount. Raises OSError.
    """
    for attempt in range(_STALE_ATTEMPTS):
        try:
            return _look(directory)
        except FileNotFoundError:
            return {}
        except OSError as error:
            if error.errno != errno.ESTALE or attempt == _STALE_ATTEMPTS - 1:
                raise
    raise AssertionError("the loop returns or raises")


def _look(directory: Path) -> dict[str, Entry]:
    entries = {}
    with opened(directory) as descriptor, os.scandir(descriptor) as found:
        for item in found:
            with contextlib.suppress(
                FileNotFoundError
            ):  # removed by another host since it was listed
                status = item.stat(follow_symlinks=False)
                entries[item.name] = Entry(
                    item.name,
                    status.st_size,
                    status.st_mtime_ns,
                    status.st_mode,
                    status.st_dev,
                    status.st_ino,
                )
    return entries


def open_file(directory: Path, name: str) -> int:
    """A descriptor for reading an ordinary file.

    Never waits (a planted pipe), never follows a link. Raises OSError.
    """
    with opened(directory) as parent:
        descriptor = os.open(plain(name), os.O_RDONLY | os.O_NONBLOCK | FILE_FLAGS, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no ordinary file", name)
    return descriptor


def read_file(directory: Path, name: str, limit: int) -> bytes:
    """The bytes of a small file, `limit` + 1 at most.

    Whoever gets more than `limit` has met something strange. Raises OSError.
    """
    with open(open_file(directory, name), "rb") as file:
        return file.read(limit + 1)


def present(entries: Mapping[str, Entry], name: str) -> bool:
    """Whether an ordinary file of that name was seen."""
    return name in entries and entries[name].is_file


@contextlib.contextmanager
def opened(directory: Path, *, follow: bool = False) -> Iterator[int]:
    """A descriptor of `directory`. Only what the operator configured (a parent) may be a link."""
    descriptor = os.open(directory, DIRECTORY_FLAGS & ~os.O_NOFOLLOW if follow else DIRECTORY_FLAGS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def same_directory(one: Path, other: Path) -> bool:
    """Whether two paths lead to one directory; no, if one of them leads nowhere. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(one), os.stat(other))
    return False


def plain(name: str) -> str:
    """The name, if it is that of one file in one directory. Raises ValueError."""
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is no plain file name")
    return name
