"""Writes the VMDK of a disk (see `vmdk`): compresses it unit by unit, and lays the file out.

Pure: bytes in, bytes out.
"""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

from shared.host.errors import CopyError, DiskImageError
from shared.ova.compression import Codec
from shared.ova.vmdk import (
    DIRECTORY_AT_END,
    GRAIN,
    GRAIN_HEADER,
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

_ZEROS: Final = bytes(GRAIN)
_FILLER: Final = render_marker(MarkerKind.FILLER)

Bytes = TypeVar("Bytes", bound=bytes | memoryview)
#: A digest of the bytes that it is given.
GrainDigest = Callable[[bytes | memoryview], bytes]


class TakenGrain(NamedTuple):
    """A grain that the copy before has: how many sectors it takes there, and its bytes' digest."""

    sectors: int
    digest: bytes


class PlacedGrain(NamedTuple):
    """A grain of a unit: its number, its first sector there, and how many it has.

    `digest` is that of its bytes as laid out, if it was asked for. One that is `taken` has zeros in
    their place: they are in the copy before.
    """

    number: int
    sector: int
    sectors: int
    digest: bytes = b""
    taken: bool = False


@dataclass(frozen=True, slots=True)
class CompressedUnit:
    """A part of the disk, compressed and laid out: the bytes, and which `grains` they hold."""

    data: bytes | memoryview
    grains: tuple[PlacedGrain, ...]


@lru_cache(maxsize=1)
def _zeros(mebibytes: int) -> memoryview:
    """Shared by all units that are taken over: zeros for each would cost more than all else."""
    return memoryview(bytes(mebibytes << 20))


def taken_unit(taken: Mapping[int, TakenGrain], alignment: int = SECTOR) -> CompressedUnit:
    """A part of the disk of which the copy before has every grain that is not zeros.

    They are `taken`, in the order of the disk; what they would be filled up with follows them as in
    `compress_unit`.
    """
    grains: list[PlacedGrain] = []
    sector = 0
    for number, (sectors, digest) in taken.items():
        grains.append(PlacedGrain(number, sector, sectors, digest, taken=True))
        sector += sectors
    data: bytes | memoryview = _zeros((sector * SECTOR >> 20) + 1)[: sector * SECTOR]
    if filler := -sector % (alignment // SECTOR):
        data = b"".join((data, _FILLER * filler))
    return CompressedUnit(data, tuple(grains))


def compress_unit(
    position: int,
    data: bytes,
    codec: Codec,
    *,
    self_check: bool,
    digest: GrainDigest | None = None,
    alignment: int = SECTOR,
    taken: Mapping[int, TakenGrain] = MappingProxyType({}),
) -> CompressedUnit:
    """Compresses the part of a disk at `position`, a multiple of the grain.

    A last short grain is filled up with zeros. Grains that are `taken` (by number) are not
    compressed; `data` has zeros in their place.

    With `self_check` each grain is inflated again and compared: `CopyError` if it differs. The unit
    is filled up to a multiple of `alignment` bytes; what fills it belongs to its last grain, unless
    that is taken.
    """
    if missing := -len(data) % GRAIN:
        data += bytes(missing)
    view = memoryview(data)  # `startswith` and slices of a view compare and pass on without copying
    grains: list[PlacedGrain] = []
    pieces: list[bytes] = []
    sector = 0
    for offset in range(0, len(data), GRAIN):
        number = (position + offset) // GRAIN
        if known := taken.get(number):
            piece = bytes(known.sectors * SECTOR)
            grains.append(PlacedGrain(number, sector, known.sectors, known.digest, taken=True))
        elif data.startswith(_ZEROS, offset):
            continue
        else:
            packed = codec.compress(view[offset : offset + GRAIN])
            if self_check and not _holds(codec.decompress(packed), data, offset):
                raise CopyError(
                    f"compressing with {codec.name} went wrong at byte {position + offset} of the "
                    "disk",
                    hint="test the memory of this host",
                )
            piece = _laid_out(position + offset, packed)
            grains.append(PlacedGrain(number, sector, len(piece) // SECTOR))
        pieces.append(piece)
        sector += len(piece) // SECTOR
    if filler := -sector % (alignment // SECTOR) if pieces else 0:
        pieces.append(_FILLER * filler)
        if not grains[-1].taken:
            grains[-1] = grains[-1]._replace(sectors=grains[-1].sectors + filler)
    unit = b"".join(pieces)
    return CompressedUnit(unit, _with_digests(unit, grains, digest) if digest else tuple(grains))


def _laid_out(position: int, packed: bytes) -> bytes:
    """A compressed grain with its header, filled up to whole sectors."""
    padding = _ZEROS[: -(len(packed) + GRAIN_HEADER.size) % SECTOR]
    return b"".join((GRAIN_HEADER.pack(position // SECTOR, len(packed)), packed, padding))


def _with_digests(
    unit: bytes, grains: Sequence[PlacedGrain], digest: GrainDigest
) -> tuple[PlacedGrain, ...]:
    view = memoryview(unit)
    return tuple(
        grain
        if grain.taken
        else grain._replace(
            digest=digest(view[grain.sector * SECTOR : (grain.sector + grain.sectors) * SECTOR]),
        )
        for grain in grains
    )


def _holds(inflated: bytes, data: bytes, offset: int) -> bool:
    """Whether this is the grain of `data` at `offset`."""
    return len(inflated) == GRAIN and data.startswith(inflated, offset)


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

    def add(self, unit: CompressedUnit) -> Iterator[bytes | memoryview]:
        """Lays out one unit: perhaps a table, perhaps what aligns it, then the unit's own bytes.

        A unit of zeros takes no bytes.
        """
        if not unit.grains:
            return
        number = unit.grains[0].number // TABLE_GRAINS
        if number != self._table_number:
            yield from self._end_table()
            self._table_number = number
        if missing := -(self._position + self.sectors * SECTOR) % self._alignment:
            yield self._place(_FILLER * (missing // SECTOR))
        for grain in unit.grains:
            self._table[grain.number % TABLE_GRAINS] = self.sectors + grain.sector
        yield self._place(unit.data)

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

    def _place(self, data: Bytes) -> Bytes:
        self.sectors += len(data) // SECTOR
        if self.sectors * SECTOR > LARGEST_BYTES:
            raise DiskImageError("the compressed disk does not fit into the 2 TiB of a VMDK")
        return data

    def _header(self, directory: int) -> bytes:
        return VmdkHeader(self._capacity, len(self._descriptor) // SECTOR, directory).render()
