"""Compares an `.ova` with the digests of its parts: all of it, or as far as it was sent.

The part that was sent is read back from the server. Of what the NAS copied by itself then only the
beginning of each range is compared, and a sample of whole grains: that finds a copy that went to
the wrong place, and does not find everything that has rotted in the copy before.
"""

import hashlib
import os
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from shared.host.errors import CopyError
from shared.host.rate_limit import UNLIMITED, Pace
from shared.nas.nas_errors import reported
from shared.nas.reading import opened_fresh
from shared.ova.check import CheckStoppedError, OvaCheck, Progress, Sink, feed, read_description
from shared.ova.index import GrainIndex, grain_digest
from shared.ova.parts import MadeParts, Parts, PartSums, Segment, Stretch, segments, stretches
from shared.ova.tar import members
from shared.ova.vmdk import GRAIN, GRAIN_HEADER, SECTOR

#: Neighbours are read together up to so many bytes.
_AT_ONCE: Final = 1 << 20
#: Of so many grains that the NAS copied one is read, and of a small copy more.
_SAMPLE: Final = 1024
_FEWEST: Final = 8


def check_parts(
    directory: Path,
    name: str,
    parts: Parts,
    index: GrainIndex,
    *,
    progress: Progress = lambda _done, _total: None,
    sinks: Mapping[str, Sink] = MappingProxyType({}),
    pace: Pace = UNLIMITED,
) -> OvaCheck:
    """Reads every byte, and compares it with the digest that was made when it was made.

    `sinks` get the bytes of the members of these names: grains that were right, and others before
    it is known whether they are.

    Raises `CopyError` with the precise reason if anything differs, `NasError` if the file cannot be
    read; arguments and what is read as in `check_ova`.
    """
    whole = hashlib.sha256()
    with reported(f"read {name}"), opened_fresh(directory, name) as descriptor:
        size = os.fstat(descriptor).st_size
        sums = PartSums(parts)
        found = members(descriptor)
        wanted = [(member, sinks[member.name]) for member in found if member.name in sinks]
        batches = _batches(segments(parts, index, size))
        for batch, data in _read(descriptor, batches, pace):
            whole.update(data)
            _compare(batch, data, sums, parts)
            for member, sink in wanted:
                feed(sink, member, batch[0].start, data)
            progress(batch[-1].end, size)
        sums.finish()
        _, unlisted = read_description(descriptor, found)
    return OvaCheck(whole.hexdigest(), size, found, unlisted)


def check_sent(
    directory: Path,
    name: str,
    made: MadeParts,
    index: GrainIndex,
    *,
    progress: Progress = lambda _done, _total: None,
    should_stop: Callable[[], bool] = lambda: False,
    pace: Pace = UNLIMITED,
) -> OvaCheck:
    """The same for what was sent, and for heads and samples of what the NAS copied.

    The answer has no SHA-256.
    """
    with reported(f"read {name}"), opened_fresh(directory, name, whole=False) as descriptor:
        size = os.fstat(descriptor).st_size
        taken = CopiedGrains(made.copied, sum(section.count for section in index.header.sections))
        sums = PartSums(made.parts)

        def wanted() -> Iterator[Segment]:
            for found in stretches(made.parts, index, size):
                if isinstance(found, Segment):
                    yield found
                    continue
                for segment, whole in taken.looked_at(found):
                    if whole:
                        yield segment
                    else:
                        _check_head(descriptor, segment, made.parts)

        for batch, data in _read(descriptor, _batches(wanted()), pace, should_stop):
            _compare(batch, data, sums, made.parts)
            progress(batch[-1].end, size)
        sums.finish()
        _, unlisted = read_description(descriptor, found := members(descriptor))
    return OvaCheck("", size, found, unlisted)


class CopiedGrains:
    """Which grains of a copy are read before it counts, of which the NAS copied these ranges.

    To be asked in the order of the file.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], grains: int) -> None:
        self._ranges = iter(ranges)
        self._start = self._end = 0
        self._every = max(1, min(_SAMPLE, grains // _FEWEST))
        self._left = secrets.randbelow(self._every)

    def looked_at(self, stretch: Stretch) -> Iterator[tuple[Segment, bool]]:
        """The grains to be read, as a whole or only their heads.

        Whole are those that were sent, and a sample; of each range that was copied there is the
        head of the first one.
        """
        starts, at, count = stretch.starts, 0, len(stretch.grains.numbers)
        while at < count:
            self._advance(starts[at])
            if self._end <= starts[at]:  # there is no further range
                first = end = count
            else:
                first = min(count, bisect_left(starts, self._start, at))
                end = max(first, bisect_right(starts, self._end, first) - 1)
                if end == at:  # the range ends inside of this one
                    first = end = at + 1
            for segment in stretch.segments(at, first):
                yield segment, True
            yield from self._of_range(stretch, first, end)
            at = end

    def _advance(self, position: int) -> None:
        """Goes on to the range that ends behind a place, if there is one."""
        while self._end <= position:
            found = next(self._ranges, None)
            if found is None:
                break
            self._start, self._end = found[0], found[0] + found[1]

    def _of_range(self, stretch: Stretch, first: int, end: int) -> Iterator[tuple[Segment, bool]]:
        """The same of grains that were copied."""
        if first < end and stretch.starts[first] == self._start and self._left:
            yield from ((head, False) for head in stretch.segments(first, first + 1))
        while end - first > self._left:
            first += self._left
            yield from ((sample, True) for sample in stretch.segments(first, first + 1))
            first += 1
            self._left = self._every - 1
        self._left -= end - first


def _check_head(descriptor: int, segment: Segment, parts: Parts) -> None:
    head = os.pread(descriptor, GRAIN_HEADER.size, segment.start)
    if len(head) != GRAIN_HEADER.size:
        raise CopyError(f"the file ends before byte {segment.end}")
    sector, size = GRAIN_HEADER.unpack(head)
    if sector != segment.grain * (GRAIN // SECTOR) or not 0 < size <= segment.end - segment.start:
        raise _damaged(segment, parts)


def _batches(found: Iterable[Segment]) -> Iterator[list[Segment]]:
    """Segments that lie beside each other, to be read together."""
    batch: list[Segment] = []
    for segment in found:
        if batch and (segment.start != batch[-1].end or segment.end - batch[0].start > _AT_ONCE):
            yield batch
            batch = []
        batch.append(segment)
    if batch:
        yield batch


def _read(
    descriptor: int,
    batches: Iterable[list[Segment]],
    pace: Pace,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[list[Segment], memoryview]]:
    for batch in batches:
        start, end = batch[0].start, batch[-1].end
        pace.wait(end - start)
        if should_stop():
            raise CheckStoppedError("the check was stopped")
        data = os.pread(descriptor, end - start, start)
        if len(data) != end - start:
            raise CopyError(f"the file ends before byte {end}")
        yield batch, memoryview(data)


def _compare(batch: list[Segment], data: memoryview, sums: PartSums, parts: Parts) -> None:
    first = batch[0].start
    for segment in batch:
        piece = data[segment.start - first : segment.end - first]
        if segment.grain < 0:
            sums.add(segment, piece)
        elif grain_digest(piece) != segment.digest:
            raise _damaged(segment, parts)


def _damaged(segment: Segment, parts: Parts) -> CopyError:
    name = parts.members[segment.group].name
    return CopyError(
        f"the disk {name!r} has other bytes than were written, in its {GRAIN // 1024} KiB number "
        f"{segment.grain}"
    )
