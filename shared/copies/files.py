"""The copies' door to the NAS: every change of a copy, its directory or its side files goes through `NasFiles`.

Each public method of `NasFiles` is one operation on the file tree, so a test that wraps the class meets every place where a
crash can leave something half done. Looking is done by the functions below; nothing here follows a symbolic link in the last
part of a path: what others may have planted in the NAS directories is reported, never entered.

Why a directory is listed before anything in it is opened, renamed or removed: an NFS client may remember for a minute that a
name is absent and then answers ENOENT to all three, although another host has made it; opening and listing the directory asks
the server (see docs/nas.md).
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.copies.names import parse_final
from shared.copies.permits import Permit

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_NOFOLLOW | os.O_CLOEXEC
#: Handles that another client's change has made stale: looking again gives fresh ones.
_STALE_ATTEMPTS: Final = 5
#: A directory that still changes after so many looks is in use by others in earnest.
_LOOKS_LIMIT: Final = 20


@dataclass(frozen=True, slots=True)
class Modes:
    """The rights of what is created. Directories keep the group of their parent where that is set (setgid)."""

    file: int = 0o640
    directory: int = 0o750


#: Copies can be read by the group; only this user changes them.
PRIVATE: Final = Modes()
#: Every member of the group may add, move and remove copies: for hosts whose workers run as different users.
SHARED_GROUP: Final = Modes(file=0o660, directory=0o2770)


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory, as a look without following links found it. `size` in bytes, `modified` in nanoseconds.

    `device` and `inode` tell two files apart. They do not tell whether it still is the same file: some mounts number files anew.
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


def modes_for(*, shared_group: bool) -> Modes:
    """The rights that the configuration asks for."""
    return SHARED_GROUP if shared_group else PRIVATE


class NasFiles:
    """Changes the NAS, one operation a call. `name` is one plain file name. All raise OSError."""

    def __init__(self, modes: Modes = PRIVATE) -> None:
        self.modes = modes

    def make_directory(self, directory: Path) -> None:
        """Makes a directory with the configured rights. One that is there already is left as it is; a link is refused."""
        with _opened(directory.parent, follow=True) as parent:
            try:
                os.mkdir(directory.name, self.modes.directory, dir_fd=parent)
            except FileExistsError:
                os.close(os.open(directory.name, _DIRECTORY, dir_fd=parent))  # ENOTDIR or ELOOP if it is something else
                return
            descriptor = os.open(directory.name, _DIRECTORY, dir_fd=parent)
            try:
                inherited = os.fstat(descriptor).st_mode & stat.S_ISGID
                _permit(descriptor, self.modes.directory | inherited)
            finally:
                os.close(descriptor)
            _sync(parent)

    def remove_directory(self, directory: Path) -> None:
        """Removes a directory that is empty; one that is not, or is gone, stays as it is."""
        with contextlib.suppress(FileNotFoundError), _opened(directory.parent, follow=True) as parent:
            try:
                os.rmdir(directory.name, dir_fd=parent)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise

    def create(self, directory: Path, name: str) -> int:
        """Creates a file that must not exist and returns its descriptor, open for reading and writing."""
        with _opened(directory) as parent:
            descriptor = os.open(_plain(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, self.modes.file, dir_fd=parent)
        _permit(descriptor, self.modes.file)
        return descriptor

    def write(self, descriptor: int, data: bytes) -> None:
        """Appends all of `data` to a file that `create` made."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def sync(self, descriptor: int) -> None:
        """Brings a created file's bytes to the server's disk."""
        os.fsync(descriptor)

    def sync_file(self, directory: Path, name: str) -> None:
        """Brings a file that another process wrote to the server's disk. Opened for writing: SMB refuses to flush otherwise."""
        with _opened(directory) as parent:
            descriptor = os.open(_plain(name), os.O_RDWR | os.O_NONBLOCK | _FILE, dir_fd=parent)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_directory(self, directory: Path) -> None:
        """Brings a directory's names to the server's disk, where the file system can do that."""
        with _opened(directory) as descriptor:
            _sync(descriptor)

    def rename(self, directory: Path, source: str, target: str) -> None:
        """Renames within a directory, replacing `target`. The answer may be wrong on a NAS (a repeated request): look afterwards."""
        with _opened(directory) as parent:
            os.rename(_plain(source), _plain(target), src_dir_fd=parent, dst_dir_fd=parent)
            _sync_name(parent, target)

    def move(self, source: Path, target: Path, name: str) -> None:
        """Renames a file into another directory. Raises OSError with EXDEV if that is on another file system."""
        with _opened(source) as old, _opened(target) as new:
            os.rename(_plain(name), name, src_dir_fd=old, dst_dir_fd=new)
            _sync_name(new, name)

    def link(self, source: Path, target: Path, name: str) -> None:
        """Gives a file a second name, the same, in another directory. Raises OSError where the file system or server has no such names."""
        with _opened(source) as old, _opened(target) as new:
            os.link(_plain(name), name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)

    def remove(self, directory: Path, name: str) -> None:
        """Removes a file or a link (not what it points to). One that is gone already is no error.

        Raises ValueError for the published files of a copy: see `remove_published`.
        """
        if parse_final(name):
            raise ValueError(f"{name} belongs to a published copy: it takes a permit to remove it")
        _unlink(directory, name)

    def remove_published(self, permit: Permit, name: str) -> None:
        """Removes a file of a published copy that `permit` names; one that is gone already is no error.

        The only way to do so: a permit is proof that the copy is not needed, or that it is whole elsewhere (`shared.copies.keeping`).
        """
        if name not in permit.names:
            raise ValueError(f"this permit is not for {name}: {permit.reason}")
        _unlink(permit.directory, name)

    def set_times(self, directory: Path, name: str, modified: int) -> None:
        """Gives a file the time, in nanoseconds, at which it was written first: for one that was copied here."""
        with _opened(directory) as parent:
            os.utime(_plain(name), ns=(modified, modified), dir_fd=parent, follow_symlinks=False)

    def set_mode(self, directory: Path, name: str) -> None:
        """Gives a file that another process made the configured rights, where its owner and the file system let us."""
        with _opened(directory) as parent:
            descriptor = os.open(_plain(name), os.O_RDONLY | os.O_NONBLOCK | _FILE, dir_fd=parent)
        try:
            _permit(descriptor, self.modes.file)
        finally:
            os.close(descriptor)


def write_file(files: NasFiles, directory: Path, name: str, data: bytes) -> None:
    """Creates `name`, which must not exist, and brings it to the disk. After a crash it may be there, torn. Raises OSError."""
    descriptor = files.create(directory, name)
    try:
        files.write(descriptor, data)
        files.sync(descriptor)
    finally:
        os.close(descriptor)


def look_twice(directory: Path) -> dict[str, Entry]:
    """Like `look`, until two looks in a row find the same names: for whoever is going to act because a name is absent.

    A listing is not one moment: a file that is renamed while it runs may be found under neither name (seen on a local disk).
    """
    entries = look(directory)
    for _ in range(_LOOKS_LIMIT):
        before, entries = entries, look(directory)
        if entries.keys() == before.keys():
            break
    return entries


def look(directory: Path) -> dict[str, Entry]:
    """What is in a directory, by name; empty if there is no such directory. Fresh on every mount. Raises OSError."""
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
    with _opened(directory) as descriptor, os.scandir(descriptor) as found:
        for item in found:
            with contextlib.suppress(FileNotFoundError):  # removed by another host since it was listed
                status = item.stat(follow_symlinks=False)
                entries[item.name] = Entry(item.name, status.st_size, status.st_mtime_ns, status.st_mode, status.st_dev, status.st_ino)
    return entries


def open_file(directory: Path, name: str) -> int:
    """A descriptor for reading an ordinary file. Never waits (a planted pipe), never follows a link. Raises OSError."""
    with _opened(directory) as parent:
        descriptor = os.open(_plain(name), os.O_RDONLY | os.O_NONBLOCK | _FILE, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no ordinary file", name)
    return descriptor


def read_file(directory: Path, name: str, limit: int) -> bytes:
    """The bytes of a small file, `limit` + 1 at most: whoever gets more than `limit` has met something strange. Raises OSError."""
    with open(open_file(directory, name), "rb") as file:
        return file.read(limit + 1)


def present(entries: Mapping[str, Entry], name: str) -> bool:
    """Whether an ordinary file of that name was seen."""
    return name in entries and entries[name].is_file


@contextlib.contextmanager
def _opened(directory: Path, *, follow: bool = False) -> Iterator[int]:
    """A descriptor of `directory`. Only what the operator configured (a parent) may be a link."""
    descriptor = os.open(directory, _DIRECTORY & ~os.O_NOFOLLOW if follow else _DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def same_directory(one: Path, other: Path) -> bool:
    """Whether two paths lead to one directory; no, if one of them leads nowhere. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(one), os.stat(other))
    return False


def _unlink(directory: Path, name: str) -> None:
    with contextlib.suppress(FileNotFoundError), _opened(directory) as parent:
        os.unlink(_plain(name), dir_fd=parent)


def _plain(name: str) -> str:
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is no plain file name")
    return name


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network file systems refuse it for directories
            raise


def _sync_name(directory: int, name: str) -> None:
    """Brings a new name to the server's disk: on SMB only flushing the file under that name does (docs/nas.md).

    The disk's own errors are raised: what it did not take is not there after a power cut, whatever a later flush says.
    """
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_NONBLOCK | _FILE, dir_fd=directory)
    except OSError:  # a file of another user cannot be opened; the rename itself stands
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _permit(descriptor: int, mode: int) -> None:
    """Sets rights; mounts without rights of their own (SMB, FAT) and files of another user keep what they have."""
    try:
        os.fchmod(descriptor, mode)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            raise
