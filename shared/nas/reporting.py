"""What an operator reads instead of an errno when the NAS refuses something."""

import contextlib
import errno
from collections.abc import Iterator, Mapping
from typing import Final

from shared.host.errors import NasError


@contextlib.contextmanager
def reported(action: str) -> Iterator[None]:
    """Turns an OSError into a `NasError` that says what was being done, why it failed, and what to do."""
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise NasError(
            f"cannot {action}: {error.strerror or error}{place}",
            hint=_HINTS.get(error.errno or 0, _DOCTOR),
        ) from error


_DOCTOR: Final = "`vmbackup-admin doctor` examines the connection to the NAS"
_RIGHTS: Final = (
    "this user may not do that there: look at the rights of that directory; "
    "`vmbackup-admin doctor` shows them"
)
_HINTS: Final[Mapping[int, str]] = {
    errno.ENOSPC: "the NAS is full: free some space; workers go on by themselves at the next tick",
    errno.EDQUOT: "the quota on the NAS is used up: raise it or free some space",
    errno.EROFS: "the NAS is mounted read-only: look at the server's disk, then mount it again",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ELOOP: (
        "there is a symbolic link where vmbackup keeps files of its own; it is never "
        "followed: find out who put it there"
    ),
    errno.ENOTDIR: (
        "there is a file or link where vmbackup keeps a directory of its own: find "
        "out who put it there"
    ),
}
