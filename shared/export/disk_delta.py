"""One disk of a copy of which only what changed is sent."""

import hashlib

from shared.ova.grain_columns import GrainCursor
from shared.ova.index import IndexSection
from shared.ova.index_writing import IndexWriter
from shared.ova.ova_writing import OvaWriter
from shared.ova.vmdk import SECTOR
from shared.ova.vmdk_units import CompressedUnit, PlacedRun


class DiskDelta:
    """Writes one disk into the OVA: copies what the previous copy holds of it, sends the rest.

    The disk is attached at `place`; its file begins at `position` of the OVA. `source` is the
    previous copy, open; `section` and `grains` are what its index says of the disk.
    """

    def __init__(
        self,
        place: str,
        position: int,
        writer: IndexWriter,
        source: int,
        section: IndexSection | None,
        grains: GrainCursor,
    ) -> None:
        self.place, self.position = place, position
        self._writer = writer
        self._source = source
        self._section = section
        self._grains = grains
        self._between = hashlib.sha256()

    @property
    def between(self) -> str:
        """The SHA-256 of all its bytes that are no grains, one after the other."""
        return self._between.hexdigest()

    def put_between(self, data: bytes | memoryview, ova: OvaWriter) -> None:
        """Takes the next bytes that are no grain: tables and the like."""
        self._between.update(data)
        ova.write(data)

    def put(self, unit: CompressedUnit, sector: int, ova: OvaWriter) -> None:
        """Takes the next unit, whose first byte is at `sector` of the disk's file."""
        view, at = memoryview(unit.data), 0
        for run in unit.runs:
            self._writer.add(run.grains.moved(sector))
            length = run.length
            if run.source is not None:
                ova.take(length, self._source, run.source * SECTOR)
                continue
            self._send(run, view[at : at + length], ova)
            at += length
        if at < len(view):
            self.put_between(view[at:], ova)

    def _send(self, run: PlacedRun, data: memoryview, ova: OvaWriter) -> None:
        """Sends grains, but for those that the previous copy has with the same bytes.

        Neighbours go together.
        """
        known = self._known(run)
        at = unsent = 0
        numbers, _, lengths, digests = run.grains
        for number, length, digest in zip(numbers, lengths, digests, strict=True):
            start, at = at, at + length * SECTOR
            found = known.get((number, digest))
            if found is None:
                continue
            if unsent < start:
                ova.write(data[unsent:start])
            ova.copy(data[start:at], self._source, found)
            unsent = at
        if unsent < at:
            ova.write(data[unsent:at])

    def _known(self, run: PlacedRun) -> dict[tuple[int, bytes], int]:
        """Where the previous copy has grains of these numbers, by their digests as well."""
        if self._section is None:
            return {}
        numbers = run.grains.numbers
        before = self._grains.between(numbers[0], numbers[-1] + 1)
        start = self._section.position
        return {
            (number, digest): start + sector * SECTOR
            for number, sector, _, digest in zip(*before, strict=True)
        }
