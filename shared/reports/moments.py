"""Moments as people say them: `yesterday`, `2 days ago`, `2026-11-29 20:00`. Pure."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_DAY: Final = timedelta(days=1)
_UNITS: Final = {
    "minute": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "m": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "h": timedelta(hours=1),
    "day": _DAY,
    "d": _DAY,
    "week": 7 * _DAY,
    "w": 7 * _DAY,
    "month": 30 * _DAY,
}
_AGO: Final = re.compile(r"(\d{1,5})\s*([a-z]+?)s?(?:\s+ago)?")
EXAMPLES: Final = "yesterday, today, 2 days ago, 3h, 30m, 2026-11-29, 2026-11-29 20:00"


def parse_moment(text: str, now: datetime) -> datetime:
    """The moment that is meant; a day is its beginning. Times without a zone are UTC, as in logs.

    Raises ValueError.
    """
    said = " ".join(text.lower().split())
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if said == "today":
        return midnight
    if said == "yesterday":
        return midnight - _DAY
    if (ago := _AGO.fullmatch(said)) and (unit := _UNITS.get(ago[2])):
        return now - int(ago[1]) * unit
    moment = datetime.fromisoformat(text.strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
