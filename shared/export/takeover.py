"""What a new copy takes over from the copy before it without reading it from the disk.

A grain is unchanged if the older clone, of which the copy before was made, has the same bytes where
the disk has the grain now: by the extents of the two clones (`shared.frozen`). If that is certain
the file system of the NAS copies it from the copy before, and nobody reads it: how long it is
there, and the digest that was made when it was compressed, are in that copy's index. Everything of
which anything is not certain is read from the disk. Whether the copy before has rotted is not known
then: such a copy has to be read in full before others are let go for it (`shared.ova.parts`).
"""

from bisect import bisect_right
from collections.abc import Container, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from shared.frozen.comparison import Differences
from shared.frozen.kept_clones import KeptImage
from shared.frozen.not_frozen import NotFrozenError
from shared.ova.disk import Block, Chain
from shared.ova.grain_columns import GrainCursor
from shared.ova.index import GrainIndex, IndexSection
from shared.ova.vmdk import GRAIN, SECTOR
from shared.ova.vmdk_units import TakenRun

if TYPE_CHECKING:
    from uuid import UUID


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

    def of(self, block: Block) -> Sequence[int]:
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
        first, grains = block.position // GRAIN, -(-block.length // GRAIN)
        if not spans.meet(block.place, block.place + block.length):
            return range(first, first + grains)
        return [
            first + number
            for number in range(grains)
            if not spans.meet(
                block.place + number * GRAIN,
                block.place + min((number + 1) * GRAIN, block.length),
            )
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
class Unchanged:
    """What need not be read of a block: `grains` by number, of which those `taken` are no zeros."""

    grains: Container[int] = ()
    taken: tuple[TakenRun, ...] = ()
    whole: bool = False


NOTHING_UNCHANGED: Final = Unchanged()


def read_changed(block: Block, unchanged: Unchanged) -> dict[int, bytes]:
    """What of a block is not unchanged, read from the disk: its grains by number.

    The last one may be short. In any thread. Raises `DiskImageError`.
    """
    first = block.position // GRAIN
    return {
        first + start // GRAIN: block.read_part(start, min(GRAIN, block.length - start))
        for start in range(0, block.length, GRAIN)
        if first + start // GRAIN not in unchanged.grains
    }


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

    def of(self, block: Block) -> Unchanged:
        """What need not be read of a block. In the order of the disk, in one thread."""
        grains = self._unchanged.of(block)
        if not grains:
            return NOTHING_UNCHANGED
        first, end = block.position // GRAIN, -(-(block.position + block.length) // GRAIN)
        known, whole = self._grains.between(first, end), len(grains) == end - first
        if not whole:
            known = known.only(grains)
        taken = tuple(TakenRun(self._start + run.sectors[0], run) for run in known.runs())
        return Unchanged(grains, taken, whole)
