"""What a new copy takes over from the copy before of a disk that is read: what has its digest.

For disks that cannot be cloned (`shared.export.takeover` has those that can). All of the disk is
read. A grain of which the digest is what it was when the copy before was made, that copy has: it is
copied there, and neither compressed nor sent.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from shared.export.raw_digests import GrainHash, RawDigests
from shared.export.takeover import DiskPart, PreviousSection, grains_of
from shared.ova.disk import Block
from shared.ova.grain_columns import NO_GRAINS, GrainColumns, GrainCursor
from shared.ova.vmdk import GRAIN, SECTOR
from shared.ova.vmdk_units import (
    CompressedUnit,
    TakenRun,
    UnitSettings,
    compress_unit,
    mixed_unit,
)

_ZEROS = bytes(GRAIN)


@dataclass(frozen=True, slots=True)
class ExpectedGrains:
    """What the copy before has of a block, and by which digests it is known.

    `known` says where it has grains, in sectors from the sector `start` of its `.ova` on; `digests`
    are those of grains as they were on the disk then, by number.
    """

    hash: GrainHash
    known: GrainColumns = NO_GRAINS
    start: int = 0
    digests: Mapping[int, bytes] | None = None

    def unit(
        self, position: int, data: bytes, settings: UnitSettings
    ) -> tuple[CompressedUnit, GrainColumns]:
        """The part of a disk at `position` as a unit; and the digests of its grains, but of zeros.

        In any thread.
        """
        data += bytes(-len(data) % GRAIN)
        now = self._digests(position, data)
        same = [number in now and self._was(number) == now[number] for number in self.known.numbers]
        raw = GrainColumns(tuple(now), digests=tuple(now.values()))
        if not any(same):
            return compress_unit(position, data, settings), raw
        taken = self.known.only(same)
        first, unchanged = position // GRAIN, frozenset(taken.numbers)
        changed = {
            number: data[(number - first) * GRAIN : (number - first + 1) * GRAIN]
            for number in now
            if number not in unchanged
        }
        runs = [TakenRun(self.start + run.sectors[0], run) for run in taken.runs()]
        return mixed_unit(changed, runs, settings), raw

    def _was(self, number: int) -> bytes | None:
        return self.digests.get(number) if self.digests else None

    def _digests(self, position: int, data: bytes) -> dict[int, bytes]:
        view, first = memoryview(data), position // GRAIN
        return {
            first + at // GRAIN: self.hash.digest(view[at : at + GRAIN])
            for at in range(0, len(data), GRAIN)
            if not data.startswith(_ZEROS, at)
        }


class ComparedDisk:
    """One disk that is read, and what the copy before has of it, if that is known.

    What it is now is noted for the next copy.
    """

    def __init__(
        self,
        place: str,
        noted: RawDigests,
        hashing: GrainHash,
        previous: PreviousSection | None = None,
        digests: Iterable[GrainColumns] = (),
    ) -> None:
        self._place, self._noted, self._hash = place, noted, hashing
        self._digests = GrainCursor(iter(digests))
        self._grains = GrainCursor(
            previous.index.columns(previous.section) if previous else iter(())
        )
        self._start = previous.section.position // SECTOR if previous else 0

    def parts(self, blocks: Iterable[Block]) -> Iterator[DiskPart]:
        """The disk in parts. Of blocks in the order of the disk, all of them, in one thread."""
        self._noted.begin_disk(self._place)
        for block in blocks:
            yield DiskPart(block.length, block, expected=self._expected(block))

    def note(self, raw: GrainColumns) -> None:
        """The digests of the next part, as it was read."""
        self._noted.add(raw)

    def _expected(self, block: Block) -> ExpectedGrains:
        first, end = grains_of(block)
        were = self._digests.between(first, end)
        digests = dict(zip(were.numbers, were.digests, strict=True))
        return ExpectedGrains(self._hash, self._grains.between(first, end), self._start, digests)
