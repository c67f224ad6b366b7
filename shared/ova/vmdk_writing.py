"""Lays the VMDK of a disk out (see `vmdk`), of units that are compressed (see `vmdk_units`).

Pure: bytes in, bytes out.
"""

from array import array
from collections.abc import Iterator
from uuid import UUID

from shared.host.errors import DiskImageError
from shared.ova.vmdk import (
    DIRECTORY_AT_END,
    GRAIN,
    LARGEST_BYTES,
    OVERHEAD_SECTORS,
    SECTOR,
    TABLE_GRAINS,
    MarkerKind,
    VmdkHeader,
    pack_sectors,
    render_descriptor,
    render_marker,
)
from shared.ova.vmdk_units import FILLER, CompressedUnit


class VmdkLayout:
    """Lays one VMDK out: `begin`, `add` for each unit in the order of the disk, `end`.

    What they return, one after the other, is the file.
    """

    def __init__(
        self,
        name: str,
        size: int,
        content: int,
        identifier: UUID,
        *,
        position: int = 0,
        alignment: int = SECTOR,
    ) -> None:
        """`size` is that of the disk in bytes.

        `content` is a random 32-bit number and `identifier` a random UUID, both only for the
        descriptor. Units begin at multiples of `alignment` bytes of the file in which this one
        begins at `position`.
        """
        self._descriptor = render_descriptor(name, size // SECTOR, content, identifier)
        self._capacity = -(-size // GRAIN) * (GRAIN // SECTOR)
        self._directory = array("I", bytes(4 * -(-size // (GRAIN * TABLE_GRAINS))))
        self._table = array("I", bytes(4 * TABLE_GRAINS))
        self._table_number = 0
        self._position, self._alignment = position, alignment
        self.sectors = 0

    def begin(self) -> bytes:
        """The header and the descriptor."""
        return self._place(
            (self._header(DIRECTORY_AT_END) + self._descriptor).ljust(
                OVERHEAD_SECTORS * SECTOR, b"\0"
            )
        )

    def add(self, unit: CompressedUnit) -> Iterator[bytes]:
        """Lays out one unit: perhaps a table, perhaps what aligns it, then the unit's own data.

        A unit of zeros takes no bytes.
        """
        if not unit.runs:
            return
        number = unit.runs[0].grains.numbers[0] // TABLE_GRAINS
        if number != self._table_number:
            yield from self._end_table()
            self._table_number = number
        if missing := -(self._position + self.sectors * SECTOR) % self._alignment:
            yield self._place(FILLER * (missing // SECTOR))
        for run in unit.runs:
            grains = run.grains.moved(self.sectors)
            for grain, sector in zip(grains.numbers, grains.sectors, strict=True):
                self._table[grain % TABLE_GRAINS] = sector
        self._grow(unit.sectors)
        yield unit.data

    def end(self) -> Iterator[bytes]:
        """The last table, the directory, the footer."""
        yield from self._end_table()
        directory = pack_sectors(self._directory)
        directory += bytes(-len(directory) % SECTOR)
        place = self.sectors + 1
        yield self._place(render_marker(MarkerKind.DIRECTORY, len(directory) // SECTOR) + directory)
        yield self._place(
            render_marker(MarkerKind.FOOTER, 1)
            + self._header(place)
            + render_marker(MarkerKind.END)
        )

    def _end_table(self) -> Iterator[bytes]:
        if any(self._table):
            self._directory[self._table_number] = self.sectors + 1
            table = pack_sectors(self._table)
            yield self._place(render_marker(MarkerKind.TABLE, len(table) // SECTOR) + table)
            self._table = array("I", bytes(4 * TABLE_GRAINS))

    def _place(self, data: bytes) -> bytes:
        self._grow(len(data) // SECTOR)
        return data

    def _grow(self, sectors: int) -> None:
        self.sectors += sectors
        if self.sectors * SECTOR > LARGEST_BYTES:
            raise DiskImageError("the compressed disk does not fit into the 2 TiB of a VMDK")

    def _header(self, directory: int) -> bytes:
        return VmdkHeader(self._capacity, len(self._descriptor) // SECTOR, directory).render()
