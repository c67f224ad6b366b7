"""What a new copy takes over from the copy before it without reading it from the disk.

A grain is unchanged if the older clone, of which the copy before was made, has the same bytes where
the disk has the grain now: by the extents of the two clones (`shared.frozen`). If that is certain
the grain is read from the copy before, as it was compressed then, and compared with the digest that
was made when it was compressed. One whose bytes are others there, because the copy has rotted, is
read from the disk like one that changed; so is everything of which anything is not certain.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from shared.frozen.comparison import Differences
from shared.frozen.errors import NotFrozenError
from shared.frozen.kept import KeptImage
from shared.ova.disk import Block, Chain
from shared.ova.index import GrainIndex, IndexRecord, IndexSection, grain_digest
from shared.ova.vmdk import GRAIN, GRAIN_HEADER, SECTOR

if TYPE_CHECKING:
    from uuid import UUID

#: Copies may be laid out so that units begin and end at blocks of the file system.
_ALIGNMENT: Final = 4096
#: Deflate adds next to nothing to what cannot be compressed.
_LONGEST: Final = GRAIN + 2 * _ALIGNMENT


class UnchangedGrains:
    """Which grains of a disk are what they were in older clones of its images."""

    def __init__(self, old: Chain, new: Chain) -> None:
        """Compares all images. Raises `NotFrozenError` if that is not possible.

        Both chains stay open as long as this is in use.
        """
        before = {image.header.identifier: image.descriptor for image in old.images}
        self._changed: dict[UUID, _Spans] = {
            image.header.identifier: _Spans(
                Differences.between(before[image.header.identifier], image.descriptor)
            )
            for image in new.images
            if image.header.identifier in before
        }
        self._blocks = old.blocks() if old.block_size == new.block_size else iter(())
        self._old: Block | None = next(self._blocks, None)

    def of(self, block: Block) -> list[int]:
        """The numbers of the unchanged grains of a block of the new disk.

        To be asked for one block after the other, in the order of the disk.
        """
        while self._old and self._old.position < block.position:
            self._old = next(self._blocks, None)
        old, spans = self._old, self._changed.get(block.image.header.identifier)
        if old is None or spans is None:
            return []
        if (old.position, old.length, old.place, old.image.header.identifier) != (
            block.position,
            block.length,
            block.place,
            block.image.header.identifier,
        ):
            return []
        return [
            (block.position + start) // GRAIN
            for start in range(0, block.length, GRAIN)
            if not spans.meet(block.place + start, block.place + min(start + GRAIN, block.length))
        ]


class _Spans:
    """What differs, to be asked by place."""

    def __init__(self, found: Differences) -> None:
        self._starts = [span.start for span in found.spans]
        self._ends = [span.end for span in found.spans]

    def meet(self, start: int, end: int) -> bool:
        """Whether any of these bytes differs."""
        number = bisect_right(self._ends, start)
        return number < len(self._starts) and self._starts[number] < end


@dataclass(frozen=True, slots=True)
class KeptGrain:
    """A grain that the copy before has at `position`; the next thing there begins at `limit`."""

    number: int
    position: int
    limit: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Unchanged:
    """What need not be read of a block: `grains` by number, of which these are not zeros."""

    grains: tuple[int, ...]
    kept: tuple[KeptGrain, ...]


NOTHING_UNCHANGED: Final = Unchanged((), ())


@dataclass(frozen=True, slots=True)
class MixedBlock:
    """A block with zeros where grains are `taken` over; `read` bytes of it come from the disk.

    Of grains that are `rotten` the copy before has other bytes than it should.
    """

    data: bytes
    taken: Mapping[int, bytes]
    read: int
    rotten: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class PreviousSection:
    """A disk in the copy before, which is open as `source`: its grains by the index."""

    source: int
    index: GrainIndex
    section: IndexSection


class PreviousDisk:
    """One disk in the copy before, and what of it is unchanged."""

    def __init__(self, previous: PreviousSection, unchanged: UnchangedGrains) -> None:
        self._source, self._section = previous.source, previous.section
        self._unchanged = unchanged
        self._records = _with_limits(previous.index.records(previous.section))
        self._next = next(self._records, None)

    @classmethod
    def of_clones(
        cls, previous: PreviousSection, images: Sequence[KeptImage], new: Chain, stack: ExitStack
    ) -> Self:
        """What is unchanged since the kept clones `images` of a disk, which is `new` now.

        They are closed with the `stack`. Raises `NotFrozenError` unless they are what was noted,
        `DiskImageError` if they are no disk.
        """
        old = stack.enter_context(Chain.open([Path(image.path) for image in images]))
        for image, noted in zip(old.images, images, strict=True):
            if not noted.is_file(image.descriptor):
                raise NotFrozenError(f"{image.path} is not what was left there")
        return cls(previous, UnchangedGrains(old, new))

    def of(self, block: Block) -> Unchanged:
        """What need not be read of a block. In the order of the disk, in one thread."""
        grains = self._unchanged.of(block)
        wanted, kept = set(grains), list[KeptGrain]()
        end = -(-(block.position + block.length) // GRAIN)
        while self._next and self._next[0].grain < end:
            record, limit = self._next
            if record.grain in wanted:
                start = self._section.position + record.sector * SECTOR
                ends = (
                    start + _LONGEST if limit is None else self._section.position + limit * SECTOR
                )
                kept.append(
                    KeptGrain(record.grain, start, min(ends, start + _LONGEST), record.digest)
                )
            self._next = next(self._records, None)
        return Unchanged(tuple(grains), tuple(kept))

    def read_changed(self, block: Block, unchanged: Unchanged) -> "MixedBlock":
        """A block, of which only what changed is read from the disk. In any thread.

        Raises `DiskImageError`.
        """
        taken = self.read(unchanged.kept)
        rotten = frozenset(grain.number for grain in unchanged.kept) - taken.keys()
        known = set(unchanged.grains) - rotten
        data, first, read = bytearray(block.length), block.position // GRAIN, 0
        for start in range(0, block.length, GRAIN):
            if first + start // GRAIN not in known:
                piece = block.read_part(start, min(GRAIN, block.length - start))
                data[start : start + len(piece)] = piece
                read += len(piece)
        return MixedBlock(bytes(data), taken, read, rotten)

    def read(self, kept: Sequence[KeptGrain]) -> Mapping[int, bytes]:
        """The grains as they are laid out, by number, without those that have other bytes now.

        In any thread. What cannot be read is left out, too: it is read from the disk then.
        """
        if not kept:
            return {}
        start = kept[0].position
        try:
            data = os.pread(self._source, kept[-1].limit - start, start)
        except OSError:
            return {}
        found = {}
        for grain in kept:
            if piece := _piece(grain, data[grain.position - start : grain.limit - start]):
                found[grain.number] = piece
        return found


def _piece(grain: KeptGrain, data: bytes) -> bytes:
    """The grain without what may fill its unit up; empty if it is not what it was."""
    if len(data) < GRAIN_HEADER.size:
        return b""
    first, size = GRAIN_HEADER.unpack_from(data)
    end = -(-(GRAIN_HEADER.size + size) // SECTOR) * SECTOR
    if first != grain.number * (GRAIN // SECTOR) or not size or end > len(data):
        return b""
    filled = end + -(grain.position + end) % _ALIGNMENT
    if grain.digest in (grain_digest(data[:end]), grain_digest(data[:filled])):
        return data[:end]
    return b""


def _with_limits(
    records: Iterator[IndexRecord],
) -> Iterator[tuple[IndexRecord, int | None]]:
    """Each record with the sector where the next one begins."""
    before: IndexRecord | None = None
    for record in records:
        if before is not None:
            yield before, record.sector
        before = record
    if before is not None:
        yield before, None
