"""Times that lie ahead of this host's clock.

Said as warnings, because nobody can know when what they tell of really was.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from coordinator.text import local
from shared.host.clock import is_ahead
from shared.state.records import VmRecord

#: When a clock is wrong, this is true of everything that it was asked for.
_NAMED: Final = 3


def of_records(records: Iterable[VmRecord], now: datetime) -> tuple[str, ...]:
    """Warnings about what the database says of VMs, one for each host that they belong to."""
    found: dict[str, list[str]] = {}
    for record in records:
        for what, moment in _times(record):
            if is_ahead(now, moment):
                found.setdefault(record.node, []).append(
                    f"{record.key} was {what} at {local(moment)}"
                )
    return tuple(_warning(node, said, now) for node, said in sorted(found.items()))


def of_copies(rows: Iterable[Mapping[str, Any]], now: datetime) -> tuple[str, ...]:
    """Warnings about the dates of copies, one for each host that made them.

    `rows`: as `vmbackup-admin copies` shows them.
    """
    found: dict[str, list[str]] = {}
    for row in rows:
        ahead = next((row[name] for name in ("finished", "read") if is_ahead(now, row[name])), None)
        if ahead is not None:
            found.setdefault(row["node"] or "", []).append(
                f"{row['vm']} {row['stamp']} is dated {local(ahead)}"
            )
    return tuple(_warning(node, said, now) for node, said in sorted(found.items()))


def _times(record: VmRecord) -> Iterator[tuple[str, str]]:
    if record.last_copy is not None:
        yield f"last copied ({record.last_copy.stamp})", record.last_copy.finished
    yield "last verified", record.verified


def _warning(node: str, said: list[str], now: datetime) -> str:
    more = f", and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
    return (
        f"times in the future: {'; '.join(said[:_NAMED])}{more}. The clock of the host "
        f"{node or 'unknown'} was wrong then, or that of this "
        f"one is now ({now:%Y-%m-%d %H:%M:%SZ}): correct it. Until the next backup and "
        f"verification they count as long ago"
    )
