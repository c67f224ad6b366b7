"""Removing what restores and rehearsals of this host left that were killed.

Also the disks of one that was to go into the place of others: the old ones are put back then.

The `database` worker does it, and each new rehearsal for the one before. A process that works holds
a lock of this host, which ends with it however it ends: so nothing is taken from a living one.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from shared.host.clock import timestamp
from shared.host.errors import VmBackupError
from shared.host.host_lock import host_lock
from shared.site import Site
from shared.tasks import disk_swap, import_leftovers, import_note, rehearsal_note, swap_note

log: Final = logging.getLogger(__name__)

REHEARSAL_LOCK: Final = "rehearsal"
_DAY_SECONDS: Final = 86400


def remove_abandoned(site: Site) -> list[str]:
    """Removes what it can; returns what could not be removed yet, which the next tick tries.

    Asks VirtualBox for nothing unless there is a note of something left.
    """
    state = site.configuration.host.state_directory
    failed = []
    _sweep(state, site.clock.now().timestamp())
    if rehearsal_note.is_noted(site) and not _try(
        site, REHEARSAL_LOCK, partial(rehearsal_note.remove_noted, site)
    ):
        failed.append("a rehearsal")
    failed += [
        file.stem
        for file in import_note.files(state)
        if not _try(site, file.stem, partial(_remove, site, file))
    ]
    return failed + [
        note.lock
        for note in swap_note.noted(state)
        if not _try(site, note.lock, partial(_resume, site, note))
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
        import_leftovers.remove_left(site, note)


def _resume(site: Site, note: swap_note.SwapNote) -> None:
    swap = note.read()
    if swap is not None:
        disk_swap.resume(note, swap, timestamp(site.clock.now()))


def _sweep(state_directory: Path, now: float) -> None:
    """Removes what a restore left that was killed before it had noted anything, a day later."""
    noted = {file.stem for file in import_note.files(state_directory)}
    for path in (
        *state_directory.glob("restore-*.lock"),
        *state_directory.glob("restore-*.json.*"),
    ):
        stem = path.name.partition(".")[0]
        with contextlib.suppress(OSError):
            if stem in noted or now - path.lstat().st_mtime < _DAY_SECONDS:
                continue
            with host_lock(state_directory, stem) as mine:
                if mine:
                    path.unlink(missing_ok=True)
                    _forget_lock(state_directory, stem)


def _try(site: Site, lock: str, work: Callable[[], None]) -> bool:
    state = site.configuration.host.state_directory
    with host_lock(state, lock) as mine:
        if not mine:
            return True
        try:
            work()
        except VmBackupError as error:
            log.error(  # noqa: TRY400 - an operator's message
                "what a restore or rehearsal that was killed has left is not removed yet: %s%s",
                error.message,
                f" ({error.hint})" if error.hint else "",
            )
            return False
    if lock.startswith("restore-"):
        _forget_lock(state, lock)
    return True


def _forget_lock(state_directory: Path, name: str) -> None:
    """Nobody asks for it again: its name is random, and its note is gone.

    What cannot be removed now is swept a day later.
    """
    with contextlib.suppress(OSError):
        (state_directory / f"{name}.lock").unlink(missing_ok=True)
