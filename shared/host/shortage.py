"""What a host has nothing left of, as an error of the operating system says."""

import errno
from typing import Final

_LACKING: Final = {
    errno.EMFILE: "no more open files",
    errno.ENFILE: "no more open files",
    errno.ENOMEM: "no more memory",
    errno.EAGAIN: "no more processes",
}


def lacking(error: Exception) -> str:
    """What the host has not given to the program; empty if that is not the reason of the error."""
    if isinstance(error, MemoryError):
        return "no more memory"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return "no more threads"
    if isinstance(error, OSError) and error.errno in _LACKING:
        return _LACKING[error.errno]
    return ""


def room_hint(error: Exception) -> str:
    """What to do if an error says that the state directory is full; empty: it does not say that."""
    if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    return (
        "make room on the file system of host.state_directory, of bytes and of inodes (df, df -i), "
        "or set it to another one"
    )
