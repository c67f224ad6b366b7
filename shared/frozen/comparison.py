"""Which bytes of one clone may differ from those of an older one."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Self

from shared.frozen.extents import Extent, Span, compare, read_extents
from shared.frozen.not_frozen import NotFrozenError

#: At most so many extents of one file are cloned, and compared: each takes 22 to 50 microseconds
#: while the VM is locked, and 32 afterwards.
MOST_EXTENTS: Final = 200_000

_PIECE: Final = 1 << 20
_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True)
class Differences:
    """What may differ, as spans in the order of the file, none of which touches another.

    `compared` bytes of each of the two were read, because their extents prove nothing.
    """

    spans: tuple[Span, ...]
    compared: int

    @classmethod
    def between(cls, old: int, new: int) -> Self:
        """Compares two open clones, neither of which anybody writes.

        What is not in the spans has the same bytes in both. Raises `NotFrozenError` if they are not
        on one file system, have too many extents, or their file system does not tell, or moves them
        just now: then a block may have been given to one clone after the other was looked at.
        """
        try:
            before, after = os.fstat(old), os.fstat(new)
            if before.st_dev != after.st_dev:
                raise NotFrozenError("the clones lie on different file systems")
            extents, others = _bounded(old), _bounded(new)
            if _bounded(old) != extents:
                raise NotFrozenError("the file system is moving the blocks of the clones")
            found = compare(extents, before.st_size, others, after.st_size)
            spans = [*found.differing, *_differing(old, new, found.unproven)]
        except OSError as error:
            raise NotFrozenError(f"clones cannot be compared: {error.strerror}") from None
        compared = sum(span.end - span.start for span in found.unproven)
        return cls(tuple(_joined(spans)), compared)


def _bounded(descriptor: int) -> list[Extent]:
    extents = list(islice(read_extents(descriptor), MOST_EXTENTS + 1))
    if len(extents) > MOST_EXTENTS:
        raise NotFrozenError(f"a clone has more than {MOST_EXTENTS} extents")
    return extents


def _differing(old: int, new: int, unproven: Iterable[Span]) -> Iterator[Span]:
    """Where the bytes really differ, in whole blocks."""
    for span in unproven:
        for start in range(span.start, span.end, _PIECE):
            length = min(_PIECE, span.end - start)
            before, after = _read(old, length, start), _read(new, length, start)
            if before == after:
                continue
            for at in range(0, length, _BLOCK):
                if before[at : at + _BLOCK] != after[at : at + _BLOCK]:
                    yield Span(start + at, start + min(at + _BLOCK, length))


def _read(descriptor: int, length: int, position: int) -> bytes:
    """Exactly `length` bytes."""
    data = os.pread(descriptor, length, position)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), position + len(data))
        if not more:
            raise NotFrozenError("a clone is shorter than it was")
        data += more
    return data


def _joined(spans: Iterable[Span]) -> Iterator[Span]:
    """In order, with neighbours as one."""
    last: Span | None = None
    for span in sorted(spans, key=lambda each: each.start):
        if last is not None and last.end >= span.start:
            last = Span(last.start, max(last.end, span.end))
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last
