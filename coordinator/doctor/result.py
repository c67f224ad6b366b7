"""The result of one check."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from shared.host.errors import VmBackupError
from shared.nas.nas_errors import NO_RIGHTS

Verdict = Literal["ok", "warn", "fail"]

_RIGHTS: Final = (
    "look at the rights of that file or directory, and whether this is the user who owns the VMs"
)
_NAS: Final = "look at the NAS: its mount, the network between, and what its server notes"
_READ_ONLY: Final = (
    "it is mounted read-only: look at its disk (of the NAS: at the server's), then mount it again"
)
#: What to do about an error, where it is not the rights: of the NAS, and of all else.
_NAS_HINTS: Final[Mapping[int | None, str]] = {
    errno.ENOSPC: (
        "the NAS is full: free some space ('The NAS is full' in docs/operation.md); "
        "workers go on by themselves"
    ),
    errno.EDQUOT: "the quota on the NAS is used up: raise it, or free some space",
    errno.EROFS: _READ_ONLY,
}
_HINTS: Final[Mapping[int | None, str]] = {
    errno.ENOSPC: "that file system is full: free some space",
    errno.EDQUOT: "the quota on that file system is used up: raise it, or free some space",
    errno.EROFS: _READ_ONLY,
}


@dataclass(frozen=True, slots=True)
class Check:
    """What was examined, how it is, what was seen, and what to do if it is not well."""

    name: str
    verdict: Verdict
    seen: str
    hint: str = ""
    #: Why it failed, where that makes other checks fail, too.
    cause: str = ""


FULL: Final = "no room"
READ_ONLY: Final = "read-only"
ANOTHER_USER: Final = "another user"
#: Errors of a NAS that each thing meets which is tried there.
_CAUSES: Final[Mapping[int | None, str]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), FULL),
    errno.EROFS: READ_ONLY,
    **{
        number: os.strerror(number)
        for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN)
    },
}


def once(checks: Iterable[Check]) -> Iterator[Check]:
    """The checks; of those that failed of one cause the first."""
    told = set()
    for check in checks:
        if check.cause not in told:
            yield check
        if check.cause:
            told.add(check.cause)


def failed(name: str, error: VmBackupError) -> Check:
    """A check that failed because of `error`."""
    number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
    hint = error.hint
    if "vmbackup-admin doctor" in hint:  # that is what has said it
        hint = _RIGHTS if number in NO_RIGHTS else _NAS
    return Check(name, "fail", error.message, hint, _CAUSES.get(number, ""))


def guarded(name: str, checks: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Runs `checks`; what they raise becomes a failed check `name`, and does not end the rest."""
    try:
        yield from checks()
    except VmBackupError as error:
        yield failed(name, error)
    except OSError as error:
        hints = _NAS_HINTS if name.startswith("NAS") else _HINTS
        place = f" ({error.filename})" if error.filename else ""
        yield Check(
            name,
            "fail",
            f"{error.strerror or error}{place}",
            hints.get(error.errno, _RIGHTS),
            _CAUSES.get(error.errno, ""),
        )
