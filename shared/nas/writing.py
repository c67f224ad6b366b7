"""Making files and directories on the NAS, and bringing them to its disk.

All that writes there is built on these functions: the state database, the copies
(`shared.copies.copy_files`), and what tries the NAS out. They raise OSError, the disk's own errors
(EIO, ENOSPC, EDQUOT) always: what it did not take is not there after a power cut, whatever a later
flush says. What is known of NFS and SMB clients decides how (docs/nas.md).
"""

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from shared.nas.nas_errors import DISK, NO_RIGHTS, NOT_SUPPORTED, FlushError
from shared.nas.reading import (
    DIRECTORY_FLAGS,
    FILE_FLAGS,
    LIMIT_BYTES,
    opened,
    ordinary,
    read_bounded,
)

#: Files and directories that the group of the backup hosts shares.
FILE_MODE: Final = 0o660
DIRECTORY_MODE: Final = 0o770
#: The beginning of the name of a file that a write test makes and removes; one that is a day old
#: was left by a test that was killed.
WRITE_TEST: Final = ".vmbackup-write-test"
#: A state database nests its history three deep.
_DEEPEST: Final = 8


def create_file(name: str | Path, mode: int, directory: int | None = None) -> int:
    """Create a file that must not exist; returns a descriptor for reading and writing.

    `directory` is the descriptor of the one in which `name` is.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | FILE_FLAGS
    descriptor = os.open(name, flags, mode, dir_fd=directory)
    try:
        set_mode(descriptor, mode)
    except OSError:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
        raise
    return descriptor


def open_in_place(name: str | Path, flags: int, mode: int, directory: int | None = None) -> int:
    """Opens a file that is written anew in its place, for writing; `flags` may make it.

    Raises OSError, also if something else is there: a pipe, which would be waited for, or a file
    that has another name as well, which somebody else may need.
    """
    flags |= os.O_WRONLY | os.O_NONBLOCK | FILE_FLAGS
    descriptor = os.open(name, flags, mode, dir_fd=directory)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise OSError(errno.EEXIST, "is no file of this program's", os.fspath(name))
    return descriptor


def like_directory(mode: int, directory: Path) -> int:
    """`mode`, and the right of everybody to read if everybody may read `directory`."""
    others = stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
    return mode | others if os.stat(directory).st_mode & stat.S_IROTH else mode


def write_new_file(path: Path, data: bytes) -> None:
    """Create a file that must not exist, and bring its bytes to the disk.

    A partly written file is removed. Everybody may read it who may read its directory.
    """
    descriptor = create_file(path, like_directory(FILE_MODE, path.parent))
    try:
        with open(descriptor, "wb", closefd=True) as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def make_directory(path: Path, mode: int | None = None) -> None:
    """Make a directory. It keeps the group of its parent where that is set (setgid).

    Without a `mode` the group may write there, and everybody read who may read its parent. Raises
    FileExistsError if there is anything of that name. Whether its name is on the disk is for
    `sync_directory` of the parent.
    """
    if mode is None:
        mode = like_directory(DIRECTORY_MODE | stat.S_ISGID, path.parent)
    with opened(path.parent, follow=True) as parent:
        os.mkdir(path.name, stat.S_IMODE(mode) & ~stat.S_ISGID, dir_fd=parent)
        descriptor = os.open(path.name, DIRECTORY_FLAGS, dir_fd=parent)
    try:
        set_mode(descriptor, mode | os.fstat(descriptor).st_mode & stat.S_ISGID)
    finally:
        os.close(descriptor)


def set_mode(descriptor: int, mode: int) -> None:
    """Give a file or directory its rights, whatever the umask is.

    Mounts without rights of their own (SMB, FAT) and files of another user keep what they have.
    """
    if stat.S_IMODE(os.fstat(descriptor).st_mode) == mode:
        return
    try:
        os.fchmod(descriptor, mode)
    except OSError as error:
        if error.errno not in NO_RIGHTS | NOT_SUPPORTED:
            raise


def open_synced(
    name: str | Path, directory: int | None = None, *, foreign: bool = False
) -> BinaryIO:
    """Fsync a file under this name and return it, open for reading.

    That makes its name durable as well. Flushing the directory is not enough on SMB: measured, a
    name that was linked or renamed into place and whose directory was flushed was gone after the
    server had lost its power (docs/nas.md). SMB flushes only what is open for writing; with
    `foreign` a file of another user that may only be read is flushed as well as that goes.
    """
    flags = os.O_NONBLOCK | FILE_FLAGS
    try:
        descriptor = os.open(name, os.O_RDWR | flags, dir_fd=directory)
    except OSError as error:
        if not foreign or error.errno not in NO_RIGHTS:
            raise
        descriptor = os.open(name, os.O_RDONLY | flags, dir_fd=directory)
    file = ordinary(descriptor, Path(name))
    try:
        _flush(descriptor, name)
    except OSError:
        file.close()
        raise
    return file


def sync_name(path: Path, limit: int = LIMIT_BYTES) -> bytes:
    """Fsync a file under its name, which may be another user's, and return its bytes then.

    `limit` + 1 bytes at most.
    """
    with open_synced(path, foreign=True) as file:
        return read_bounded(file, limit)


def sync_directory(directory: Path, *, follow: bool = True) -> None:
    """Bring a directory's names to the disk, where the file system can do that.

    `follow`: whether it may be a link.
    """
    with opened(directory, follow=follow) as descriptor:
        try:
            _flush(descriptor, directory)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED | {errno.EBADF}:  # some refuse it for directories
                raise


def remove_tree(directory: Path) -> None:
    """Removes a directory that a program of ours has made, with all that is in it.

    Follows no link. What is nested more deeply than programs of ours nest anything stays, with what
    is above it. Raises OSError.
    """
    with opened(directory.parent, follow=True) as parent:
        _remove_below(parent, directory.name, _DEEPEST)


def _remove_below(parent: int, name: str, depth: int) -> None:
    if not depth:
        raise OSError(errno.ENOTEMPTY, "holds what no program of ours puts there", name)
    descriptor = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
    try:
        with os.scandir(descriptor) as found:
            entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
        for each, is_directory in entries:
            if is_directory:
                _remove_below(descriptor, each, depth - 1)
            else:
                os.unlink(each, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=parent)


def _flush(descriptor: int, name: str | Path) -> None:
    """Fsync. Raises `FlushError` if the disk did not take it, OSError if it was not asked."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in DISK:
            raise FlushError(error.errno, error.strerror, os.fspath(name)) from error
        raise
