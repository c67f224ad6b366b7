"""Many grains of a disk at once, by columns: without an object for each, which would cost more.

A copy that takes most of its grains over has hundreds of thousands of them to pass on, of which
nothing is to be done but to say where they are now.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import compress
from operator import add, ne
from typing import Final, NamedTuple


class GrainColumns(NamedTuple):
    """Grains in the order of their disk.

    Their numbers; where each begins, and how long it is there, both in sectors; and the digests of
    their bytes, if they were asked for.
    """

    numbers: tuple[int, ...] = ()
    sectors: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    digests: tuple[bytes, ...] = ()

    def part(self, start: int, end: int) -> "GrainColumns":
        """The grains from the place `start` of the columns to before `end`."""
        numbers, sectors, lengths, digests = self
        return GrainColumns(
            numbers[start:end], sectors[start:end], lengths[start:end], digests[start:end]
        )

    def only(self, wanted: Sequence[bool]) -> "GrainColumns":
        """Those of which it is said that they are wanted."""
        return GrainColumns._make(tuple(compress(column, wanted)) for column in self)

    def moved(self, sectors: int) -> "GrainColumns":
        """The same grains, each so many sectors further."""
        places = tuple([sector + sectors for sector in self.sectors])
        return GrainColumns(self.numbers, places, self.lengths, self.digests)

    def adjoining(self) -> Iterator["GrainColumns"]:
        """In parts, in each of which every grain begins where the one before it ends."""
        ends = tuple(map(add, self.sectors, self.lengths))
        return self._cut(map(ne, self.sectors[1:], ends))

    def runs(self) -> Iterator["GrainColumns"]:
        """The same, and no number is left out either."""
        ends = map(add, self.sectors, self.lengths)
        following = zip(ends, [number + 1 for number in self.numbers], strict=True)
        return self._cut(map(ne, zip(self.sectors[1:], self.numbers[1:], strict=True), following))

    def _cut(self, gaps: Iterator[bool]) -> Iterator["GrainColumns"]:
        """In parts; `gaps` says behind which grains they end, but the last."""
        start, count = 0, len(self.numbers)
        for end in compress(range(1, count), gaps):
            yield self.part(start, end)
            start = end
        if start:
            yield self.part(start, count)
        elif count:
            yield self


NO_GRAINS: Final = GrainColumns()


class GrainCursor:
    """Goes through columns once, in the order of the grains: to be asked for ever later ones."""

    def __init__(self, columns: Iterator[GrainColumns]) -> None:
        self._columns = columns
        self._now = NO_GRAINS
        self._at = 0

    def between(self, first: int, end: int) -> GrainColumns:
        """Those with the numbers from `first` to before `end`; earlier ones are passed over."""
        found = NO_GRAINS
        while True:
            start = bisect_left(self._now.numbers, first, self._at)
            self._at = bisect_left(self._now.numbers, end, start)
            part = self._now.part(start, self._at)
            if part.numbers:
                found = GrainColumns._make(map(add, found, part)) if found.numbers else part
            if self._at < len(self._now.numbers):
                return found
            following = next(self._columns, None)
            if following is None:
                return found
            self._now, self._at = following, 0
