"""Strips and curves as paths of SVG: numbers and letters of ours alone. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from shared.reports.page.days import DAYS, DayMark

#: A day is so wide and a strip so high, in units of the drawing.
DAY_WIDTH = 3
HEIGHT = 18


@dataclass(frozen=True, slots=True)
class Path:
    """A path of one kind of days."""

    kind: str
    path: str


def strip_paths(marks: Sequence[DayMark]) -> list[Path]:
    """A path for each kind of days in a strip: a rectangle for each run of them.

    Kinds differ in height, too, for those who do not tell the colours apart.
    """
    runs = list(_runs(marks))
    return [
        Path(
            mark.name.lower(),
            "".join(
                f"M{DAY_WIDTH * start} {top}h{DAY_WIDTH * length}v{HEIGHT - top}"
                f"h-{DAY_WIDTH * length}z"
                for start, length, kind in runs
                if kind is mark
            ),
        )
        for mark, top in _TOPS.items()
        if mark in marks
    ]


_TOPS = {
    DayMark.COPIED: 0,
    DayMark.UNUSED: 12,
    DayMark.WAITED: 7,
    DayMark.FAILED: 0,
    DayMark.NOBODY: 0,
    DayMark.UNKNOWN: 16,
}


def _runs(marks: Sequence[DayMark]) -> Iterator[tuple[int, int, DayMark]]:
    start = 0
    for mark, same in groupby(marks):
        length = len(list(same))
        yield start, length, mark
        start += length


def curve(points: Sequence[tuple[int, int]]) -> str:
    """Sizes over the days of a strip as a path; empty if there are none. One is a short line."""
    if not points:
        return ""
    largest = max(size for _, size in points) or 1
    places = [
        f"{DAY_WIDTH * day + 1} {HEIGHT - 1 - round((HEIGHT - 3) * size / largest)}"
        for day, size in points
    ]
    return "M" + "L".join(places) + ("h4" if len(places) == 1 else "")


WIDTH = DAY_WIDTH * DAYS
