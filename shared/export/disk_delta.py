"""One disk of a copy of which only what changed is sent."""

import hashlib
from collections.abc import Iterator

from shared.host.errors import CopyError
from shared.ova.index import IndexRecord, IndexSection
from shared.ova.index_writing import IndexWriter
from shared.ova.ova_writing import OvaWriter
from shared.ova.vmdk import SECTOR
from shared.ova.vmdk_writing import CompressedUnit


class DiskDelta:
    """Writes one disk into the OVA: copies what the previous copy holds of it, sends the rest.

    The disk is attached at `place`; its file begins at `position` of the OVA.
    """

    def __init__(
        self,
        place: str,
        position: int,
        writer: IndexWriter,
        source: int,
        section: IndexSection | None,
        records: Iterator[IndexRecord],
    ) -> None:
        self.place, self.position = place, position
        self._writer = writer
        self._source = source
        self._section = section
        self._records = records
        self._record = next(records, None)
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
        """Takes the next unit, whose first byte is at `sector` of the disk's file.

        Neighbouring grains that are copied go together, and so do those that are sent. Raises
        `CopyError` if one that was taken over is not in the copy before.
        """
        self._writer.add(
            [
                IndexRecord(grain.number, sector + grain.sector, grain.sectors, grain.digest)
                for grain in unit.grains
            ]
        )
        view = memoryview(unit.data)
        end, unsent = 0, 0
        for grain in unit.grains:
            start, end = end, (grain.sector + grain.sectors) * SECTOR
            found = self._find(grain.number, grain.digest)
            if found is None and grain.taken:
                raise CopyError("the index of the copy before does not have what it had")
            if found is None:
                continue
            if unsent < start:
                ova.write(view[unsent:start])
            if grain.taken:
                ova.take(end - start, self._source, found)
            else:
                ova.copy(view[start:end], self._source, found)
            unsent = end
        if unsent < end:
            ova.write(view[unsent:end])
        if end < len(view):
            self.put_between(view[end:], ova)

    def _find(self, grain: int, digest: bytes) -> int | None:
        """Where the previous copy has these bytes; None if it has others there."""
        while self._record and self._record.grain < grain:
            self._record = next(self._records, None)
        if (
            self._section
            and self._record
            and (self._record.grain, self._record.digest) == (grain, digest)
        ):
            return self._section.position + self._record.sector * SECTOR
        return None
