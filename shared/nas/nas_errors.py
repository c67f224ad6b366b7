"""Errors of the NAS: which of them pass by themselves, and what an operator reads of the others."""

import contextlib
import errno
from collections.abc import Iterator, Mapping
from typing import Final

from shared.host.errors import NasError

#: There is no such name.
ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
#: This user may not do that.
NO_RIGHTS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
#: A file system that cannot flush this kind of thing, or has no such rights.
NOT_SUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})
#: Answers of a network file system that pass: stale handles after a replacement, SMB under load, a
#: server that restarts.
PASSING: Final = frozenset(
    {errno.ESTALE, errno.EBADF, errno.EIO, errno.EACCES, errno.EINVAL, errno.EAGAIN, errno.EBUSY}
)
#: What the disk itself says: it did not take the data, or has no room for them.
DISK: Final = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT})
#: There is no room.
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
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


class FlushError(OSError):
    """The disk did not take what was flushed.

    Passes never: the system reports such an error once and forgets what was lost, so that a second
    flush succeeds and proves nothing.
    """


@contextlib.contextmanager
def reported(action: str) -> Iterator[None]:
    """Turn an OSError into a `NasError`: what was being done, why it failed, what to do."""
    try:
        yield
    except OSError as error:
        raise nas_error(error, action) from error


def nas_error(error: OSError, action: str) -> NasError:
    """What the operator reads instead of an errno. `action` completes "cannot …"."""
    name = f" ({error.filename})" if error.filename else ""
    return NasError(
        f"cannot {action}: {error.strerror or error}{name}",
        hint=_HINTS.get(error.errno or 0, _DOCTOR),
    )


def full_hint(number: int | None) -> str:
    """What to do about an error that says that there is no room; empty for any other error."""
    return _HINTS.get(number or 0, "") if number in FULL else ""


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that the NAS, or this user's part of it, has no room."""
    return isinstance(error, OSError) and error.errno in FULL


def is_passing(error: BaseException | None) -> bool:
    """Whether an error of the NAS passes by itself, so that a transaction is worth repeating."""
    return _is_one_of(error, _PASSING_FOR_WRITERS)


def is_passing_refusal(error: BaseException | None) -> bool:
    """Whether a network file system refuses a name with this error for a while only.

    Worth another try, if not at once.
    """
    return _is_one_of(error, PASSING | _PASSING_FOR_WRITERS)


def _is_one_of(error: BaseException | None, codes: frozenset[int]) -> bool:
    return isinstance(error, OSError) and not isinstance(error, FlushError) and error.errno in codes


_DOCTOR: Final = "`vmbackup-admin doctor` examines the connection to the NAS"
_RIGHTS: Final = (
    "this user may not do that there: look at the rights of that directory; "
    "`vmbackup-admin doctor` shows them"
)
_NO_FILE: Final = (
    "there is something else where vmbackup keeps a file of its own: find out who put it there, "
    "and move it away"
)
_HINTS: Final[Mapping[int, str]] = {
    errno.ENOSPC: "the NAS is full: free some space; workers go on by themselves at the next tick",
    errno.EDQUOT: "the quota on the NAS is used up: raise it or free some space",
    errno.EROFS: "the NAS is mounted read-only: look at the server's disk, then mount it again",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ENOENT: "it vanished: is the NAS still mounted? `vmbackup-admin doctor` tells",
    errno.ELOOP: (
        "there is a symbolic link where vmbackup keeps files of its own; it is never "
        "followed: find out who put it there"
    ),
    errno.EISDIR: _NO_FILE,
    errno.ENXIO: _NO_FILE,
    errno.ENOTDIR: (
        "there is a file or link where vmbackup keeps a directory of its own: find "
        "out who put it there"
    ),
}
