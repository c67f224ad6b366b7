"""When the NAS will be full, in words: by what this host noted of it on the last days. Pure."""

from collections.abc import Sequence
from datetime import datetime

from shared.copies.space_needed import human
from shared.reports.space_growth import AHEAD_DAYS, ENOUGH_DAYS, full_on, growth, watched
from shared.reports.space_history import Sample


def forecast(samples: Sequence[Sample], free: int, reserve: int, now: datetime) -> str:
    """When backups end for want of room, as a sentence. `free` bytes are free `now`."""
    seen = watched(samples, now)
    found = growth(seen.looks)
    if found is None:
        return (
            f"when it is full is not known: there is too little history ({len(seen.looks)} of at "
            f"least {ENOUGH_DAYS:.0f} daily notes of the host that wrote this{seen.words})"
        )
    since = f"{found.looks} looks in {found.days:.0f} days{seen.words}"
    if free <= reserve:
        return f"it is full: no backup begins ({since})"
    if found.per_day <= 0:
        return f"it does not fill up ({since})"
    pace = f"it fills by {human(round(found.per_day * 7))} a week ({since})"
    day = full_on(free, reserve, found.per_day, now)
    return f"{pace}: full on about {day}" if day else f"{pace}: not within {AHEAD_DAYS:.0f} days"
