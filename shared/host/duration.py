"""Seconds in words."""

from typing import Final

_UNITS: Final = ((86400 * 2, 86400, "d"), (3600 * 2, 3600, "h"), (60 * 2, 60, "min"), (0, 1, "s"))


def spoken(seconds: float) -> str:
    """Seconds for people, in the unit that gives two digits or so: `90 s`, `47 min`, `30 h`."""
    rounded = max(0, round(seconds))
    return next(f"{rounded // unit} {name}" for limit, unit, name in _UNITS if rounded >= limit)
