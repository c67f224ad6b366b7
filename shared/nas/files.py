"""What the state database does with single files and directories on a NAS, so that it is fresh, on the disk, and the group's.

What is known of NFS and SMB clients decides how (docs/nas.md). All functions raise OSError;
`nas_error` turns it into words.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from shared.host.clock import Clock
from shared.host.errors import NasError

T = TypeVar("T")

FILE_MODE: Final = 0o660
DIRECTORY_MODE: Final = 0o770
#: The beginning of the name of a file that a write test makes and removes; one that is a day old
#: was left by a test that was killed.
WRITE_TEST: Final = ".vmbackup-write-test"
#: Answers of a network file system that pass: stale handles after a replacement, SMB under load, a
#: server that restarts.
PASSING: Final = frozenset(
    {errno.ESTALE, errno.EBADF, errno.EIO, errno.EACCES, errno.EINVAL, errno.EAGAIN, errno.EBUSY}
)
#: For writers a refusal (EACCES, EINVAL) is an answer; these are not.
_PASSING_FOR_WRITERS: Final = frozenset(
    {
        errno.ESTALE,
        errno.EBADF,
        errno.EIO,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
    }
)
ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
_READ_ATTEMPTS: Final = 12


def list_fresh(directory: Path) -> list[str]:
    """The names in a directory. Opening it first makes an NFS client ask the server."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.listdir(descriptor)
    finally:
        os.close(descriptor)


def open_file(path: Path) -> BinaryIO:
    """Opens a file for reading, unless it is a symbolic link. Raises OSError."""
    return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def read_file(path: Path) -> bytes:
    """All bytes of a file that is no symbolic link. Raises OSError."""
    with open_file(path) as file:
        return file.read()


def patiently(act: Callable[[], T], clock: Clock) -> T | None:
    """Repeats, for some seconds, what meets errors that pass. None if there is no such name.

    Raises OSError.
    """
    for attempt in range(_READ_ATTEMPTS):
        try:
            return act()
        except OSError as error:
            if error.errno in ABSENT:
                return None
            if error.errno not in PASSING or attempt == _READ_ATTEMPTS - 1:
                raise
        clock.sleep(min(2.0, 0.01 * 2**attempt))
    raise AssertionError("the loop returns or raises")


def write_new_file(path: Path, data: bytes) -> None:
    """Creates a file that must not exist, and brings its bytes to the disk.

    Raises OSError; a partly written file is removed.
    """
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE
    )
    try:
        with open(descriptor, "wb", closefd=True) as file:
            permit(descriptor, FILE_MODE)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def make_directory(path: Path) -> None:
    """Makes a directory that the group of the backup hosts shares.

    Files made in it belong to the group of the NAS directory.

    Raises OSError; FileExistsError if there is anything of that name.
    """
    os.mkdir(path, DIRECTORY_MODE)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        permit(descriptor, DIRECTORY_MODE | stat.S_ISGID)
    finally:
        os.close(descriptor)


def permit(descriptor: int, mode: int) -> None:
    """Gives what was just made its rights, whatever the umask is.

    A mount without rights of its own (SMB, FAT) keeps what it has.
    """
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, mode)


def sync_name(path: Path) -> bytes:
    """Brings the name of a file to the server's disk by flushing the file under that name, and reads what was flushed.

    Flushing the directory is not enough on SMB: measured, a name that was linked or renamed into
    place and whose directory was flushed was gone after the server had lost its power
    (docs/nas.md). A file of another user that may only be read is flushed as well as that goes.
    """
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, os.O_RDWR | flags)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        descriptor = os.open(path, os.O_RDONLY | flags)
    with open(descriptor, "rb") as file:
        os.fsync(descriptor)
        return file.read()


def sync_directory(directory: Path) -> None:
    """Brings a directory's names to the disk, where the file system can."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
            errno.EBADF,
        ):  # some network file systems refuse it for directories
            raise
    finally:
        os.close(descriptor)


def nas_error(error: OSError, place: Path) -> NasError:
    """What the operator should read instead of an errno."""
    hints = {
        errno.ENOSPC: (
            "the NAS is full: free some space; workers go on by themselves at the next tick"
        ),
        errno.EDQUOT: "the quota on the NAS is used up: raise it or free some space",
        errno.EROFS: "the NAS is mounted read-only: look at the server's disk, then mount it again",
        errno.EACCES: (
            "this user may not write there: see the rights of that directory, and "
            "`vmbackup-admin doctor`"
        ),
        errno.EPERM: (
            "this user may not write there: see the rights of that directory, and "
            "`vmbackup-admin doctor`"
        ),
        errno.ENOENT: (
            "the directory vanished: is the NAS still mounted? `vmbackup-admin doctor` tells"
        ),
    }
    hint = hints.get(error.errno or 0, "`vmbackup-admin doctor` examines the connection to the NAS")
    return NasError(
        f"the NAS refused an operation on {error.filename or place}: {error.strerror or error}",
        hint=hint,
    )


def is_passing(error: BaseException | None) -> bool:
    """Whether an error of the NAS is one that passes by itself, so that a transaction is worth repeating."""
    return isinstance(error, OSError) and error.errno in _PASSING_FOR_WRITERS


def is_passing_refusal(error: BaseException | None) -> bool:
    """Whether an error is one with which a network file system refuses a name for a while.

    Worth another try, if not at once.
    """
    return isinstance(error, OSError) and error.errno in PASSING | _PASSING_FOR_WRITERS
