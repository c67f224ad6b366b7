"""Who may read the state database besides those who write it: `state.readable`.

Only the rights to read are given or taken, and only of what belongs to this user. What is made in a
directory later follows it (`shared.nas.writing.like_directory`), so hosts need not agree.
"""

import contextlib
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from shared.nas.nas_errors import NO_RIGHTS, NOT_SUPPORTED
from shared.nas.reading import FILE_FLAGS, list_fresh

log: Final = logging.getLogger(__name__)

Readable = Literal["", "group", "all"]

_GROUP: Final = stat.S_IRGRP
_OTHERS: Final = stat.S_IROTH
#: The directories whose few files are looked at each time; of the history, each directory once.
_DIRECTORIES: Final = ("", "gen", "node", "tmp")


def keep(root: Path, readable: Readable) -> int:
    """Makes the database in `root` readable as configured; empty: leaves everything as it is.

    Returns how many files and directories were changed. Mounts without rights of their own, and
    what belongs to another user, stay as they are: that user's next tick does it. May be repeated,
    and killed at any point. Raises OSError.
    """
    if not readable:
        return 0
    changed = 0
    for name in _DIRECTORIES:
        changed += _set(root / name, readable)
        changed += sum(_set(path, readable) for path in _files(root / name))
    history = root / "history"
    for directory in (*(path for path in _entries(history) if path.is_dir()), history):
        if _is_wrong(directory, readable):  # its files first: then it says that all is done
            changed += sum(_set(path, readable) for path in _files(directory))
            changed += _set(directory, readable)
    return changed


def _files(directory: Path) -> Iterator[Path]:
    """The files in a directory, and those of generations that are directories."""
    for path in _entries(directory):
        status = os.lstat(path) if os.path.lexists(path) else None
        if status is None:
            continue
        if stat.S_ISREG(status.st_mode):
            yield path
        elif stat.S_ISDIR(status.st_mode) and (path / "snapshot").is_file():
            yield from (path, path / "snapshot")


def _entries(directory: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from (directory / name for name in sorted(list_fresh(directory)))


def _wanted(mode: int, readable: Readable) -> int:
    """The rights of something that has `mode`, as they are to be."""
    enter = 0o111 if stat.S_ISDIR(mode) else 0
    given = (_GROUP | _OTHERS | enter & 0o011) if readable == "all" else (_GROUP | enter & 0o010)
    return (stat.S_IMODE(mode) & ~(_OTHERS | 0o001)) | given


def _is_wrong(path: Path, readable: Readable) -> bool:
    mode = os.lstat(path).st_mode
    return _wanted(mode, readable) != stat.S_IMODE(mode)


def _set(path: Path, readable: Readable) -> bool:
    """Gives a file or directory its rights; whether that changed anything."""
    try:
        if not _is_wrong(path, readable):
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | FILE_FLAGS)
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                os.fchmod(descriptor, _wanted(mode, readable))
        finally:
            os.close(descriptor)
    except FileNotFoundError:  # swept, or moved to the history, meanwhile
        return False
    except OSError as error:
        if error.errno not in NO_RIGHTS | NOT_SUPPORTED:
            raise
        log.info("the rights of %s stay as they are: %s", path, error.strerror)
        return False
    return True
