"""The reserve: room that the database holds on the NAS, so that a full NAS can be cleared.

To prune, archive, pin or recover a commit is needed, and where not one byte is left nothing can be
committed. So the file `vmstate/reserve` takes room for some commits. It is removed for those
commands alone, when they meet a full NAS, and made again when there is room.
"""

import contextlib
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from shared.host.clock import Clock
from shared.host.errors import NasError
from shared.host.waits import pausing
from shared.nas.nas_errors import is_full, reported
from shared.nas.reading import list_fresh, look
from shared.nas.writing import FILE_MODE, create_file, open_synced, sync_directory
from shared.state.store.layout import generation_file, generation_name, generation_numbers

T = TypeVar("T")

log: Final = logging.getLogger(__name__)

NAME: Final = "reserve"
#: Commands commit three times at most; beside each new generation, `vmtool-statedb` and a heartbeat
#: are written, and others go on meanwhile.
_GENERATIONS: Final = 24
_LEAST_BYTES: Final = 4 << 20
_MOST_BYTES: Final = 256 << 20
#: A private file that nobody has written to for so long is of a making that was killed.
_KILLED_SECONDS: Final = 600.0
_PIECE_BYTES: Final = 4 << 20
#: What was removed is free at once, or when the file system of the NAS has committed that.
_WAITS_SECONDS: Final = (0.0, 0.5, 1.5, 3.0)


def present(root: Path) -> int:
    """How many bytes the reserve of the database in `root` has; 0 if there is none."""
    entry = look(root).get(NAME)
    return entry.size if entry is not None and entry.is_file else 0


def wanted(root: Path, *, least: int = _LEAST_BYTES, most: int = _MOST_BYTES) -> int:
    """How many bytes it should have, by the size of the newest generation. Raises OSError.

    Not fewer than `least`, and not more than `most`.
    """
    newest = max(generation_numbers(list_fresh(root / "gen")), default=0)
    size = os.stat(generation_file(root / "gen" / generation_name(newest))).st_size
    return min(max(least, _GENERATIONS * size), most)


def room_needed(size: int, keep_free: int) -> int:
    """How many bytes must be free before one of `size` is made, so that it is in nobody's way.

    `keep_free` is `nas.reserve`, which exports leave free.
    """
    return max(keep_free, size) + size


def keep(root: Path, keep_free: int) -> int:
    """Makes the reserve if there is none, or much too small a one, and there is room for it.

    Returns the bytes that were written. May be called on several hosts at once, and killed at any
    point: a private file is left, which the next making removes. Raises OSError.
    """
    size = wanted(root)
    if present(root) >= size // 2:
        return 0
    room = os.statvfs(root)
    if room.f_bavail * room.f_frsize < room_needed(size, keep_free):
        return 0
    _make(root, size)
    return size


def _make(root: Path, size: int) -> None:
    """Writes random bytes, which no file system can pack or share, and gives them the name."""
    private = root / "tmp" / f"{NAME}.{secrets.token_hex(6)}"
    descriptor = create_file(private, FILE_MODE)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            _remove_left_behind(private, os.fstat(descriptor).st_mtime)
            for start in range(0, size, _PIECE_BYTES):
                piece = memoryview(os.urandom(min(_PIECE_BYTES, size - start)))
                while piece:
                    piece = piece[file.write(piece) :]
            os.fsync(descriptor)
        os.replace(private, root / NAME)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(private)
        raise
    sync_directory(root)
    open_synced(root / NAME).close()


def _remove_left_behind(own: Path, now: float) -> None:
    """Removes what earlier makings left that were killed; `now` is the NAS's time.

    Not what another host may be writing: that changes all the time.
    """
    for name in list_fresh(own.parent):
        path = own.parent / name
        with contextlib.suppress(OSError):
            if name.startswith(f"{NAME}.") and now - path.lstat().st_mtime > _KILLED_SECONDS:
                path.unlink()


def give_up(root: Path) -> bool:
    """Removes the reserve; False if there is none, because another host was faster or was killed.

    Raises OSError.
    """
    list_fresh(root)
    try:
        os.unlink(root / NAME)
    except FileNotFoundError:
        return False
    sync_directory(root)
    return True


def with_room(root: Path, clock: Clock, action: Callable[[], T]) -> T:
    """Performs `action`; on a full NAS the reserve is given up, and it is performed again.

    It is tried again also where there is no reserve: another host may just have given it up. Raises
    what `action` raises; of a NAS that stays full a `NasError` that says what is left to do.
    """
    try:
        return action()
    except NasError as error:
        if not is_full(error.__cause__):
            raise
    with reported(f"give up the reserve of the state database in {root}"):
        given_up = give_up(root)
    if given_up:
        log.warning(
            "the NAS is full: the reserve of the state database was given up, and is made again by "
            "`vmbackup-worker database` when there is room"
        )
    pause = pausing(clock.sleep, "room on the NAS", sum(_WAITS_SECONDS))
    for seconds in _WAITS_SECONDS:
        pause(seconds)
        try:
            return action()
        except NasError as error:
            if not is_full(error.__cause__):
                raise
            failure = error
    raise NasError(
        failure.message,
        hint=(
            "the NAS is full, and the state database has no reserve left: make some MiB of room by "
            "hand, from files that are not the backup's, and give the command again"
        ),
    ) from failure.__cause__
