"""What options of several commands share."""

import math
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click

from shared.completion import COPY
from shared.host.clock import SystemClock

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
#: Moments as people say them.
EXAMPLES: Final = "yesterday, today, 2 days ago, 3h, 30m, 2026-11-29, 2026-11-29 20:00"

copy_option: Final = click.option(
    "--copy",
    "which",
    type=COPY,
    default="latest",
    show_default=True,
    metavar="latest|previous|STAMP",
    help="Which copy of VM.",
)


class UnseenPath(click.Path):
    """A path as it was written. click would look at it, and wait for a server there that hangs."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """See `click.ParamType.convert`."""
        if not os.fspath(value):
            self.fail("an empty word names no directory", param, ctx)
        return Path(value)


class FiniteRange(click.FloatRange):
    """A number between two bounds; what is none (`nan`) is between none."""

    def convert(
        self, value: float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """See `click.ParamType.convert`."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


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


class MomentType(click.ParamType[datetime]):
    """A moment as people say it: `yesterday`, `2 days ago`, `2026-11-29 20:00`."""

    name = "moment"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """See `click.ParamType.convert`."""
        if isinstance(value, datetime):
            return value
        try:
            return parse_moment(str(value), SystemClock().now())
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no moment; these are: {EXAMPLES}", param, ctx)


since_option: Final = click.option(
    "--since",
    type=MomentType(),
    metavar="WHEN",
    help=f"Only what happened since then ({EXAMPLES}); UTC unless a zone is given.",
)
