"""Reading the database for people and for monitoring.

Without a lock, and showing what there is even when something is wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordinator import text
from shared.host.errors import DatabaseDamagedError, NodeConflictError
from shared.state.sessions.heartbeat import parse_beat, read_beat
from shared.state.store import generations, reserve
from shared.state.store.snapshot import Snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from shared.site import Site
    from shared.state.store.database import Database


@dataclass(frozen=True, slots=True)
class Reading:
    """A generation to show, and what is wrong with it: to be said loudly."""

    snapshot: Snapshot
    warnings: tuple[str, ...] = ()


def read(site: "Site") -> Reading:
    """The newest generation.

    If the newest is damaged, the one before with a warning; other alarms become warnings, too.

    Raises `NasError`, and `DatabaseDamagedError` if nothing can be read at all.
    """
    try:
        snapshot = site.database.head()
        unusable = tuple(row.message for row in snapshot.contents.unusable)
        return Reading(snapshot, (*site.database.warnings, *unusable))
    except (DatabaseDamagedError, NodeConflictError) as error:
        snapshot = generations.newest_readable(site.database.root)
        alarm = f"{error.message} ({error.hint})" if error.hint else error.message
        shown = f"shown is generation {snapshot.generation}, committed {snapshot.header.committed}"
        return Reading(snapshot, (*site.database.warnings, f"{alarm}; {shown}"))


def doing(database: "Database", session: str) -> Mapping[str, Any]:
    """What the heartbeat of a session says; empty if there is none to be read."""
    try:
        return parse_beat(read_beat(database.root / "node", session))
    except OSError:
        return {}


def missing_reserve(root: "Path", keep_free: int) -> str:
    """What to say if the database has no reserve on the NAS; empty if it has one.

    `keep_free` is `nas.reserve`. Raises OSError.
    """
    if reserve.present(root):
        return ""
    needed = text.size(reserve.room_needed(reserve.wanted(root), keep_free))
    return (
        "there is no reserve of the state database on the NAS: it was given up to clear a full "
        f"NAS, or not made yet. `vmbackup-worker database` makes it when {needed} are free"
    )
