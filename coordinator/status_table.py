"""How `status` says of the VMs what it knows: the order, the columns, the line below the table."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from coordinator import text
from coordinator.vm_rows import notes
from shared.output import pasteable
from shared.state.states import State

#: The order in which a person wants to see them: what needs attention or happens now comes first.
ORDER: Final = (
    State.BACKUP_IN_PROGRESS,
    State.BACKUP_NECESSARY,
    State.RUNNING,
    State.NEW,
    State.CLEAN,
    State.ARCHIVED,
)


def columns(row: Mapping[str, Any], now: datetime) -> list[str]:
    """The cells of one VM."""
    copy = row["last_copy"] or {}
    age = text.duration(copy["age_seconds"]) if copy else "none"
    return [
        row["name"],
        row["status"],
        row["node"],
        age,
        text.size(copy.get("size")),
        str(row["failures"] or ""),
        notes(row, now),
    ]


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many VMs there are of each kind."""
    if not rows:
        known = "No VMs are known yet: `vmbackup-worker vmfind` finds those of its host."
        return pasteable(known)
    counts = [
        f"{number} {state}"
        for state in ORDER
        if (number := sum(row["status"] == state for row in rows))
    ]
    left_out = sum(bool(row["left_out"]) and row["status"] != State.ARCHIVED for row in rows)
    kept = [row for row in rows if not row["left_out"] and row["status"] != State.ARCHIVED]
    failing = sum(bool(row["failures"]) for row in kept)
    bare = sum(row["last_copy"] is None for row in kept)
    extra = [
        f"{number} {what}"
        for number, what in (
            (left_out, "left out of backups"),
            (failing, "failing"),
            (bare, "without a copy"),
        )
        if number
    ]
    return f"{text.counted(len(rows), 'VM')}: " + ", ".join([*counts, *extra])
