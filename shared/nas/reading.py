"""Reading directories and files on the NAS: fresh on every mount, no links, no waiting for a pipe.

Why a directory is listed before anything in it is opened, renamed or removed: an NFS client may
remember for a minute that a name is absent and then answers ENOENT to all three, although another
host has made it; opening and listing the directory asks the server (see docs/nas.md).
"""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC
#: Longer than any file that is read whole: a generation of ten thousand VMs has some 20 MB.
LIMIT_BYTES: Final = 1 << 25
_PIECE: Final = 1 << 20
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
    def is_directory(self) -> bool:
        """Whether it is a directory: no link to one."""
        return stat.S_ISDIR(self.mode)

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


def look_at_top(directory: Path) -> dict[str, Entry]:
    """Like `look`, of a directory that was configured: it may be reached by links."""
    return look(Path(os.path.realpath(directory)))


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


def list_fresh(directory: Path) -> list[str]:
    """The names in a directory. Opening it first makes an NFS client ask the server."""
    with opened(directory, follow=True) as descriptor:
        return os.listdir(descriptor)


def open_file(path: Path, *, follow: bool = True) -> BinaryIO:
    """Open an ordinary file for reading: no link, and no pipe that it would wait for.

    `follow`: whether the directory may be a link. Raises OSError.
    """
    with opened(path.parent, follow=follow) as parent:
        flags = os.O_RDONLY | os.O_NONBLOCK | FILE_FLAGS
        return ordinary(os.open(path.name, flags, dir_fd=parent), path)


def ordinary(descriptor: int, path: Path) -> BinaryIO:
    """An open file that must be an ordinary one, for reading. Raises OSError; it is closed then."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    code = errno.EISDIR if stat.S_ISDIR(mode) else errno.ENXIO
    raise OSError(code, "no ordinary file", str(path))


def drop_cached(descriptor: int) -> None:
    """Drops what this machine still holds of an open file, so that it is read from the server.

    What was written and not brought to the storage stays: call fsync before.
    """
    if sys.platform == "linux":
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def read_file(path: Path, limit: int = LIMIT_BYTES, *, follow: bool = True) -> bytes:
    """The bytes of an ordinary file, `limit` + 1 at most: more than `limit` is no file of ours.

    Raises like `open_file`.
    """
    with open_file(path, follow=follow) as file:
        return read_bounded(file, limit)


def read_bounded(file: BinaryIO, limit: int = LIMIT_BYTES) -> bytes:
    """What is left of an open file, `limit` + 1 bytes at most. Raises OSError."""
    pieces, wanted = [], limit + 1
    while wanted and (piece := file.read(min(wanted, _PIECE))):
        pieces.append(piece)
        wanted -= len(piece)
    return b"".join(pieces)


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


@contextlib.contextmanager
def opened_fresh(directory: Path, name: str, *, whole: bool = True) -> Iterator[int]:
    """A file to be read from the server, from front to end, or only parts of it. Raises OSError."""
    with open_file(directory / name, follow=False) as file:
        descriptor = file.fileno()
        drop_cached(descriptor)
        if sys.platform == "linux":
            order = os.POSIX_FADV_SEQUENTIAL if whole else os.POSIX_FADV_RANDOM
            os.posix_fadvise(descriptor, 0, 0, order)
        yield descriptor
