"""A directory where the files of a copy are mounted one by one: a note there says which are ours.

Below each mounted file is an empty one, and others are plain files. Their server has a lock on the
note as long as it lives; what it leaves behind in a crash is told from the user's own by inode,
size and time. Nothing else is ever removed. Directory, note and files count only where they belong
to the user who runs this: else anybody could name to root what is to be removed.
"""

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from shared.host.errors import UsageError
from shared.serving.own_directory import OwnDirectory, Signs, is_name, lock, wait_for_lock

NOTE: Final = ".vmbackup-mount"
_LONGEST: Final = 1 << 20
_MOST_FILES: Final = 1000
#: A server takes so long at most from its last file to its end.
END_SECONDS: Final = 10.0
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
    files: Mapping[str, Signs]


class NotedPlace:
    """An empty directory that gets files of a copy, by its server. Close it: they are removed."""

    def __init__(
        self, place: Path, what: str, *, locking: Callable[[BinaryIO], object] = wait_for_lock
    ) -> None:
        """Raises `UsageError` if it is not for this user alone, or somebody else makes one of it.

        OSError too.
        """
        try:
            self._place = OwnDirectory(place)
        except PermissionError:
            raise UsageError(f"{place} is not of this user", hint="make one for it") from None
        self._what, self._files = what, dict[str, Signs]()
        try:
            if self._place.others_may_write:
                raise UsageError(f"others may write to {place}", hint=f"chmod go-w {place}")
            self._note = self._made(locking)
        except BaseException:
            self._place.close()
            raise
        self._write()

    def _made(self, locking: Callable[[BinaryIO], object]) -> BinaryIO:
        """The note, locked. Until it is, it looks like what a crash left, and may be removed."""
        while True:
            try:
                note = self._place.make(NOTE)
            except FileExistsError:
                where = self._place.path
                raise UsageError(f"{where} has a copy already", hint="umount it first") from None
            locking(note)
            if self._place.has(NOTE, note):
                return note
            note.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _remove(self._place, self._files)
        self._note.close()
        self._place.close()

    def add(self, name: str, content: bytes | None = None) -> Path:
        """A file with this content; without any, one on which something may be mounted."""
        with self._place.make(name) as file:
            file.write(content or b"")
            os.fchmod(file.fileno(), _MOUNT_POINT if content is None else _PLAIN)
        self._files[name] = self._place.signs(name)
        self._write()
        return self._place.path / name

    def drop(self, name: str) -> None:
        """Removes one on which nothing came to be mounted."""
        self._place.remove(name, self._files.pop(name))
        self._write()

    def _write(self) -> None:
        data = json.dumps({"what": self._what, "files": self._files}).encode()
        os.pwrite(self._note.fileno(), data, 0)
        os.ftruncate(self._note.fileno(), len(data))


def read(place: Path) -> PlaceNote | None:
    """The note there; None if there is none, or one of somebody else."""
    with contextlib.suppress(OSError), OwnDirectory(place) as own, own.open(NOTE) as file:
        return _parsed(file)
    return None


def owner(place: Path) -> int | None:
    """The user whose note is there, or whose directory it is in; None if there is none."""
    with contextlib.suppress(OSError):
        users = {(place / NOTE).lstat().st_uid, place.lstat().st_uid}
        return next(iter(users - {os.geteuid()}), os.geteuid())
    return None


def served(place: Path) -> bool:
    """Whether the server of its files lives."""
    with contextlib.suppress(OSError), OwnDirectory(place) as own, own.open(NOTE) as file:
        return not lock(file, shared=True)
    return False


def clear(place: Path, *, seconds: float | None = None) -> bool:
    """Removes what a server of this user has left there, once it has ended. False if it goes on.

    It is waited for so long at most (`END_SECONDS`).
    """
    end = time.monotonic() + (END_SECONDS if seconds is None else seconds)
    while True:
        try:
            with OwnDirectory(place) as own, own.open(NOTE) as file:
                if lock(file):
                    if own.has(NOTE, file):  # else another was quicker, and it may be made anew
                        note = _parsed(file)
                        _remove(own, note.files if note else {})
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


def _parsed(file: BinaryIO) -> PlaceNote | None:
    try:
        content = json.loads(file.read(_LONGEST))
        files = {
            name: tuple(map(int, signs))
            for name, signs in content["files"].items()
            if is_name(name)
        }
        return PlaceNote(str(content["what"]), files) if len(files) <= _MOST_FILES else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None


def _remove(place: OwnDirectory, files: Mapping[str, Signs]) -> None:
    for name, signs in files.items():
        place.remove(name, signs)
    place.remove(NOTE)
