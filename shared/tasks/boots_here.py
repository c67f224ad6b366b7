"""What runs from copies on this host, for people and for programs."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.host.errors import VmBackupError
from shared.host.printable import printable
from shared.state.sessions.host_look import Stuck
from shared.tasks import boot_note, boot_progress
from shared.tasks.boot_note import BootNote


@dataclass(frozen=True, slots=True)
class Shown:
    """A VM of this host that runs from a copy, for people and for programs."""

    line: str
    document: dict[str, Any]
    stuck: Stuck | None
    remedy: str


def shown(state_directory: Path) -> list[Shown]:
    """What runs from copies on this host; nothing where another user may not see that."""
    found = []
    for note in boot_note.all_of(state_directory):
        with contextlib.suppress(VmBackupError, OSError):
            found.append(_shown(note))
    return found


def stuck_here(state_directory: Path) -> dict[str, Stuck | None]:
    """What runs from copies on this host, by name, and why it does not get on; None if it does.

    Nothing where another user may not see that.
    """
    found: dict[str, Stuck | None] = {}
    for note in boot_note.all_of(state_directory):
        with contextlib.suppress(VmBackupError, OSError):
            found[note.name] = boot_progress.progress(note).stuck
    return found


def _shown(note: BootNote) -> Shown:
    found = boot_progress.progress(note)
    line = f"{printable(note.name)} runs from {note.stamp} of {printable(note.key)}: {found.words}"
    facts = {"name": note.name, "uuid": note.uuid, "vm": note.key, "stamp": note.stamp}
    facts |= {"folder": str(note.folder), "since": note.since}
    how: dict[str, Any] = {"filled": found.filled, "total": found.total, "rate": found.rate}
    how |= {"seconds_left": found.seconds_left, "problem": found.problem}
    how |= {"short": found.short, "unread": found.unread, "busy": found.busy}
    how |= {"placed": found.placed, "unlisted": found.unlisted, "on": found.on}
    how |= {"served": found.served, "whole": found.whole}
    return Shown(line, {**facts, **how}, found.stuck, found.remedy)
