"""Who works on a VM that runs from its copy: one process of this host at a time."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.host.errors import LockedError
from shared.host.host_lock import host_lock
from shared.host.waits import pausing
from shared.tasks.boot_note import BootNote

#: The lock of this host from the look whether a name is free until it is noted who has it.
BEGINNING: Final = "beginning-to-boot"
_LOCK_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.2


@contextlib.contextmanager
def alone(note: BootNote, *, seconds: float = _LOCK_SECONDS) -> Iterator[None]:
    """Within, no other process makes, starts, settles or removes the VM.

    Whoever does is waited for: its server looks now and then. Raises `LockedError` if that takes
    longer than `seconds`.
    """
    with _waited_for(note.file.parent, note.file.stem, f"works on {note.name!r}", seconds):
        yield


@contextlib.contextmanager
def beginning(state_directory: Path) -> Iterator[None]:
    """Within, no other process of this host notes that it makes a VM. Raises like `alone`."""
    with _waited_for(state_directory, BEGINNING, "begins to run a VM from a copy"):
        yield


def forget(note: BootNote) -> None:
    """Removes the locks of a VM of which nothing is noted any more."""
    if note.file.exists():
        return
    for file in note.file.parent.glob(f"{note.file.stem}*.lock"):
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def _waited_for(
    state_directory: Path, name: str, what: str, seconds: float = _LOCK_SECONDS
) -> Iterator[None]:
    end = time.monotonic() + seconds
    pause = pausing(time.sleep, f"another process, which {what}", seconds)
    while True:
        with host_lock(state_directory, name) as mine:
            if mine:
                yield
                return
        if time.monotonic() >= end:
            raise LockedError(f"another process {what}", hint="try again soon")
        pause(_POLL_SECONDS)
