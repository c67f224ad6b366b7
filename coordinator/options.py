"""What options of several commands share."""

import math
from datetime import datetime
from typing import Final

import click

from shared.completion import COPY
from shared.host.clock import SystemClock
from shared.reports.moments import EXAMPLES, parse_moment

copy_option: Final = click.option(
    "--copy",
    "which",
    type=COPY,
    default="latest",
    show_default=True,
    metavar="latest|previous|STAMP",
    help="Which copy of VM.",
)


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
