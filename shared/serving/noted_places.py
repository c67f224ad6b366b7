"""A directory where the files of a copy are mounted one by one: a note there says which are ours.

Below each mounted file is an empty one, and others are plain files. Their server has a lock on the
note as long as it lives; what it leaves behind in a crash is told from the user's own by inode,
size and time. Nothing else is ever removed.
"""

import contextlib
import fcntl
import json
import os
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from shared.host.errors import UsageError

NOTE: Final = ".vmbackup-mount"
_LONGEST: Final = 1 << 20
#: A server takes so long at most from its last file to its end.
END_SECONDS: Final = 30.0
_OPEN_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.05
#: F_SETLEASE of Linux.
_SET_LEASE: Final = 1024
#: Only written to: who finds no mounted disk there is refused, and does not read an empty one.
_MOUNT_POINT: Final = 0o200
_PLAIN: Final = 0o400


@dataclass(frozen=True, slots=True)
class PlaceNote:
    """What is mounted (VM and stamp), and the signs of each file that was made for it."""

    what: str
    files: Mapping[str, tuple[int, ...]]


class NotedPlace:
    """An empty directory that gets files of a copy, by its server. Close it: they are removed."""

    def __init__(self, place: Path, what: str) -> None:
        """Raises `UsageError` if somebody else makes one of it just now, OSError."""
        self._place, self._what = place, what
        self._files: dict[str, tuple[int, ...]] = {}
        try:
            self._note = (place / NOTE).open("x+b")
        except FileExistsError:
            raise UsageError(f"{place} has a copy already", hint="umount it first") from None
        (place / NOTE).chmod(0o600)
        fcntl.flock(self._note, fcntl.LOCK_EX)
        self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _remove(self._place, self._files)
        self._note.close()

    def add(self, name: str, content: bytes | None = None) -> Path:
        """A file with this content; without any, one on which something may be mounted."""
        path = self._place / name
        with path.open("xb") as file:
            file.write(content or b"")
        path.chmod(_MOUNT_POINT if content is None else _PLAIN)
        self._files[name] = _signs(path.lstat())
        self._write()
        return path

    def drop(self, name: str) -> None:
        """Removes one on which nothing came to be mounted."""
        (self._place / name).unlink()
        del self._files[name]
        self._write()

    def _write(self) -> None:
        data = json.dumps({"what": self._what, "files": self._files}).encode()
        os.pwrite(self._note.fileno(), data, 0)
        os.ftruncate(self._note.fileno(), len(data))


def read(place: Path) -> PlaceNote | None:
    """The note there; None if there is none, or one of somebody else."""
    with contextlib.suppress(OSError), _opened(place) as file:
        return _parsed(file)
    return None


def served(place: Path) -> bool:
    """Whether the server of its files lives."""
    with contextlib.suppress(OSError), _opened(place) as file:
        return not _locked(file)
    return False


def clear(place: Path) -> bool:
    """Removes what a server has left there, once it has ended. False if it goes on."""
    end = time.monotonic() + END_SECONDS
    while True:
        try:
            with _opened(place) as file:
                if _locked(file):
                    note = _parsed(file)
                    _remove(place, note.files if note else {})
                    return True
        except OSError:
            return True  # the server has done it
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL_SECONDS)


def is_open(file: str) -> bool:
    """Whether anybody has a mounted file open, also where it is the disk of a loop device.

    A lease for writing is only given where nobody has. One whose server does not answer counts as
    open; what cannot be known, as not: to unmount it will tell.
    """
    answer = [True]
    asking = threading.Thread(target=_ask, args=(file, answer), daemon=True)
    asking.start()
    asking.join(_OPEN_SECONDS)
    return answer[0]


def _ask(file: str, answer: list[bool]) -> None:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        answer[0] = False
        return
    try:
        fcntl.fcntl(descriptor, _SET_LEASE, fcntl.F_WRLCK)
        answer[0] = False
    except OSError as error:
        answer[0] = isinstance(error, BlockingIOError)
    finally:
        os.close(descriptor)


def _opened(place: Path) -> BinaryIO:
    """The note, if this user, or root for another, may go by it. Raises OSError."""
    descriptor = os.open(place / NOTE, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "r+b")
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or (os.geteuid() and found.st_uid != os.geteuid()):
        file.close()
        raise PermissionError(f"{place / NOTE} is another user's")
    return file


def _locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parsed(file: BinaryIO) -> PlaceNote | None:
    try:
        content = json.loads(file.read(_LONGEST))
        files = {
            name: tuple(map(int, signs))
            for name, signs in content["files"].items()
            if name not in ("", ".", "..") and "/" not in name and "\0" not in name
        }
        return PlaceNote(str(content["what"]), files)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _remove(place: Path, files: Mapping[str, tuple[int, ...]]) -> None:
    for name, signs in files.items():
        with contextlib.suppress(OSError):
            if _signs((place / name).lstat()) == signs:
                (place / name).unlink()
    with contextlib.suppress(OSError):
        (place / NOTE).unlink()


def _signs(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_ino, found.st_size, found.st_mtime_ns, stat.S_IFMT(found.st_mode))
