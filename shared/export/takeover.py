"""What a new copy takes over from the copy before it without reading it from the disk.

A grain is unchanged if the older clone, of which the copy before was made, has the same bytes where
the disk has the grain now: by the extents of the two clones (`shared.frozen`). If that is certain
the file system of the NAS copies it from the copy before, and nobody reads it: how long it is
there, and the digest that was made when it was compressed, are in that copy's index. Everything of
which anything is not certain is read from the disk. Whether the copy before has rotted is not known
then: such a copy has to be read in full before others are let go for it (`shared.ova.parts`).
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from shared.frozen.comparison import Differences
from shared.frozen.kept_clones import KeptImage
from shared.frozen.not_frozen import NotFrozenError
from shared.ova.disk import Block, Chain
from shared.ova.grain_columns import GrainColumns, GrainCursor
from shared.ova.index import GrainIndex, IndexSection
from shared.ova.vmdk import GRAIN, SECTOR, TABLE_GRAINS
from shared.ova.vmdk_units import TakenRun

if TYPE_CHECKING:
    from uuid import UUID

    from shared.export.compared_disk import ExpectedGrains


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

    def changed(self, block: Block) -> Collection[int]:
        """The numbers of the grains of a block of the new disk that may not be what they were.

        To be asked for one block after the other, in the order of the disk.
        """
        while self._old and self._old.position < block.position:
            self._old = next(self._blocks, None)
        old, spans = self._old, self._changed.get(block.image.header.identifier)
        first, end = grains_of(block)
        if old is None or spans is None:
            return range(first, end)
        place = block.place
        if (old.position, old.length, old.place, old.image.header.identifier) != (
            block.position,
            block.length,
            place,
            block.image.header.identifier,
        ):
            return range(first, end)
        changed: set[int] = set()
        for start, after in spans.within(place, place + block.length):
            changed.update(
                range(first + (start - place) // GRAIN, first - (place - after) // GRAIN)
            )
        return changed


class _Spans:
    """What differs, to be asked by place."""

    def __init__(self, found: Differences) -> None:
        self._starts = [span.start for span in found.spans]
        self._ends = [span.end for span in found.spans]

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """What of these bytes differs."""
        number = bisect_right(self._ends, start)
        while number < len(self._starts) and self._starts[number] < end:
            yield max(start, self._starts[number]), min(end, self._ends[number])
            number += 1


class DiskPart(NamedTuple):
    """A part of a disk, of so many bytes, that becomes a unit of its own.

    Its `block` is read, but for the grains that the copy before has, `taken`, and for zeros: all of
    it, or those that are `changed`, by number. Without a block nothing is read.
    """

    length: int
    block: Block | None = None
    changed: Collection[int] | None = None
    taken: tuple[TakenRun, ...] = ()
    #: What the grains of the block were, if all of it is read to see which ones still are.
    expected: "ExpectedGrains | None" = None


def grains_of(block: Block) -> tuple[int, int]:
    """The number of its first grain, and of the first one behind it."""
    return block.position // GRAIN, -(-(block.position + block.length) // GRAIN)


def read_changed(part: DiskPart) -> dict[int, bytes]:
    """The grains that are `changed`, read from the disk, by number.

    The last one may be short. In any thread. Raises `DiskImageError`.
    """
    block, found = part.block, {}
    if block is not None and part.changed is not None:
        for number in sorted(part.changed):
            start = number * GRAIN - block.position
            found[number] = block.read_part(start, min(GRAIN, block.length - start))
    return found


@dataclass(frozen=True, slots=True)
class PreviousSection:
    """A disk in the copy before: its grains by the index, which says how long each is."""

    index: GrainIndex
    section: IndexSection


class PreviousDisk:
    """One disk in the copy before, and what of it is unchanged."""

    def __init__(self, previous: PreviousSection, unchanged: UnchangedGrains) -> None:
        self._unchanged = unchanged
        self._grains = GrainCursor(previous.index.columns(previous.section))
        self._start = previous.section.position // SECTOR

    @classmethod
    def of_clones(
        cls, previous: PreviousSection, images: Sequence[KeptImage], new: Chain, stack: ExitStack
    ) -> Self:
        """What is unchanged since the kept clones `images` of a disk, which is `new` now.

        They are closed with the `stack`. Raises `NotFrozenError` unless they are what was noted,
        `DiskImageError` if they are no disk.
        """
        paths = [Path(image.path) for image in images]
        # their links were accepted when the copy was made of them, which the note vouches for
        old = stack.enter_context(Chain.open(paths, lambda _child, _parent: True))
        for image, noted in zip(old.images, images, strict=True):
            if not noted.is_file(image.descriptor):
                raise NotFrozenError(f"{image.path} is not what was left there")
        return cls(previous, UnchangedGrains(old, new))

    def parts(self, blocks: Iterable[Block]) -> Iterator[DiskPart]:
        """The disk in parts. Of blocks in the order of the disk, all of them, in one thread.

        Blocks of which nothing is read go together as far as one table of grains goes, if nothing
        is between them: what the copy before has there is no part of the disk any more.
        """
        first = end = length = 0
        for block in blocks:
            start, after = grains_of(block)
            changed = self._unchanged.changed(block)
            follows = start == end and start // TABLE_GRAINS == first // TABLE_GRAINS
            if length and (changed or not follows):
                yield from self._unread(first, end, length)
                length = 0
            if changed:
                yield self._mixed(block, changed)
                continue
            first, end, length = first if length else start, after, length + block.length
        if length:
            yield from self._unread(first, end, length)

    def _mixed(self, block: Block, changed: Collection[int]) -> DiskPart:
        first, end = grains_of(block)
        if len(changed) == end - first:
            return DiskPart(block.length, block)
        known = self._grains.between(first, end)
        known = known.only([number not in changed for number in known.numbers])
        return DiskPart(block.length, block, changed, tuple(map(self._run, known.runs())))

    def _unread(self, first: int, end: int, length: int) -> Iterator[DiskPart]:
        """Grains of which none has changed, as a part for each run of them."""
        for run in self._grains.between(first, end).adjoining():
            yield DiskPart(length, taken=(self._run(run),))
            length = 0
        if length:  # they are zeros
            yield DiskPart(length)

    def _run(self, grains: GrainColumns) -> TakenRun:
        return TakenRun(self._start + grains.sectors[0], grains)
