"""Removing what restores and rehearsals of this host left that were killed.

The `database` worker does it, and each new rehearsal for the one before. A process that works holds
a lock of this host, which ends with it however it ends: so nothing is taken from a living one.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from shared.host.errors import VmBackupError
from shared.host.host_lock import host_lock
from shared.site import Site
from shared.tasks import import_note, rehearsal_note

log: Final = logging.getLogger(__name__)

REHEARSAL_LOCK: Final = "rehearsal"


def remove_abandoned(site: Site) -> list[str]:
    """Removes what it can; returns what could not be removed yet, which the next tick tries.

    Asks VirtualBox for nothing unless there is a note of something left.
    """
    state = site.configuration.host.state_directory
    failed = []
    if rehearsal_note.is_noted(site) and not _try(
        site, REHEARSAL_LOCK, partial(rehearsal_note.remove_noted, site)
    ):
        failed.append("a rehearsal")
    return failed + [
        file.stem
        for file in import_note.files(state)
        if not _try(site, file.stem, partial(_remove, site, file))
    ]


@contextlib.contextmanager
def working(state_directory: Path, note_file: Path) -> Iterator[None]:
    """Holds the lock that says that a living process works on what is noted in this file."""
    try:
        with host_lock(state_directory, note_file.stem):
            yield
    finally:
        if not note_file.exists():
            _forget_lock(state_directory, note_file.stem)


def _remove(site: Site, file: Path) -> None:
    note = import_note.read(file)
    if note is not None:
        import_note.remove_left(site, note)


def _try(site: Site, lock: str, work: Callable[[], None]) -> bool:
    state = site.configuration.host.state_directory
    with host_lock(state, lock) as mine:
        if not mine:
            return True
        try:
            work()
        except VmBackupError as error:
            log.error(  # noqa: TRY400 - an operator's message
                "what a restore or rehearsal that was killed has left is not removed yet: %s",
                error.message,
            )
            return False
    if lock != REHEARSAL_LOCK:
        _forget_lock(state, lock)
    return True


def _forget_lock(state_directory: Path, name: str) -> None:
    """Nobody asks for it again: its name is random, and its note is gone."""
    (state_directory / f"{name}.lock").unlink(missing_ok=True)
