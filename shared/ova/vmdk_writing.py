"""Writes the VMDK of a disk (see `vmdk`): compresses it unit by unit, and lays the file out.

Pure: bytes in, bytes out.
"""

import itertools
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
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
    render_marker,
)

_ZEROS: Final = bytes(GRAIN)
_FILLER: Final = render_marker(MarkerKind.FILLER)

#: A digest of the bytes that it is given.
GrainDigest = Callable[[bytes | memoryview], bytes]


@dataclass(frozen=True, slots=True)
class CompressedUnit:
    """A part of the disk, compressed and laid out.

    `grains` has the number of each grain and its sector within `data`; `digests` has one for the
    bytes of each grain as laid out, if they were asked for. Those that are `rotten` (by number) the
    copy before does not hold, whatever its index says.
    """

    data: bytes
    grains: tuple[tuple[int, int], ...]
    digests: tuple[bytes, ...] = ()
    rotten: frozenset[int] = frozenset()


def compress_unit(
    position: int,
    data: bytes,
    codec: Codec,
    *,
    self_check: bool,
    digest: GrainDigest | None = None,
    alignment: int = SECTOR,
    taken: Mapping[int, bytes] = MappingProxyType({}),
) -> CompressedUnit:
    """Compresses the part of a disk at `position`, a multiple of the grain.

    A last short grain is filled up with zeros. Of grains that are `taken` (by number) the bytes as
    laid out are known already; `data` has zeros in their place.

    With `self_check` each grain is inflated again and compared: `CopyError` if it differs. The unit
    is filled up to a multiple of `alignment` bytes; what fills it belongs to its last grain.
    """
    if missing := -len(data) % GRAIN:
        data += bytes(missing)
    view = memoryview(data)  # `startswith` and slices of a view compare and pass on without copying
    pieces: list[bytes] = []
    grains: list[tuple[int, int]] = []
    sector = 0
    for offset in range(0, len(data), GRAIN):
        if known := taken.get((position + offset) // GRAIN):
            pieces.append(known)
            grains.append(((position + offset) // GRAIN, sector))
            sector += len(known) // SECTOR
            continue
        if data.startswith(_ZEROS, offset):
            continue
        packed = codec.compress(view[offset : offset + GRAIN])
        if self_check and not _holds(codec.decompress(packed), data, offset):
            raise CopyError(
                f"compressing with {codec.name} went wrong at byte {position + offset} of the disk",
                hint="test the memory of this host",
            )
        padding = -(len(packed) + GRAIN_HEADER.size) % SECTOR
        pieces += (
            GRAIN_HEADER.pack((position + offset) // SECTOR, len(packed)),
            packed,
            _ZEROS[:padding],
        )
        grains.append(((position + offset) // GRAIN, sector))
        sector += (GRAIN_HEADER.size + len(packed) + padding) // SECTOR
    if pieces:
        pieces.append(_FILLER * (-sector % (alignment // SECTOR)))
    unit = b"".join(pieces)
    return CompressedUnit(
        unit, tuple(grains), tuple(digest(part) for part in _parts(unit, grains)) if digest else ()
    )


def _holds(inflated: bytes, data: bytes, offset: int) -> bool:
    """Whether this is the grain of `data` at `offset`."""
    return len(inflated) == GRAIN and data.startswith(inflated, offset)


def _parts(unit: bytes, grains: Sequence[tuple[int, int]]) -> Iterator[memoryview]:
    """The grains as laid out, each up to where the next one begins."""
    view = memoryview(unit)
    starts = [sector * SECTOR for _, sector in grains]
    for start, end in itertools.pairwise([*starts, len(unit)]):
        yield view[start:end]


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
        self._descriptor = _descriptor(name, size // SECTOR, content, identifier)
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
        """Lays out one unit: perhaps a table, perhaps what aligns it, then the unit's own bytes.

        A unit of zeros takes no bytes.
        """
        if not unit.grains:
            return
        number = unit.grains[0][0] // TABLE_GRAINS
        if number != self._table_number:
            yield from self._end_table()
            self._table_number = number
        if missing := -(self._position + self.sectors * SECTOR) % self._alignment:
            yield self._place(_FILLER * (missing // SECTOR))
        for grain, sector in unit.grains:
            self._table[grain % TABLE_GRAINS] = self.sectors + sector
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

    def _place(self, data: bytes) -> bytes:
        self.sectors += len(data) // SECTOR
        if self.sectors * SECTOR > LARGEST_BYTES:
            raise DiskImageError("the compressed disk does not fit into the 2 TiB of a VMDK")
        return data

    def _header(self, directory: int) -> bytes:
        return VmdkHeader(self._capacity, len(self._descriptor) // SECTOR, directory).render()


def _descriptor(name: str, sectors: int, content: int, identifier: UUID) -> bytes:
    """The descriptor that VirtualBox 7.2 writes, filled up to whole sectors.

    The geometry is the one it makes up from the size.
    """
    nothing = UUID(int=0)
    text = f"""# Disk DescriptorFile
version=1
CID={content:08x}
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RDONLY {sectors} SPARSE "{name}"

# The disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.adapterType="ide"
ddb.geometry.cylinders="{min(sectors // (16 * 63), 16383)}"
ddb.geometry.heads="16"
ddb.geometry.sectors="63"
ddb.uuid.image="{identifier}"
ddb.uuid.parent="{nothing}"
ddb.uuid.modification="{nothing}"
ddb.uuid.parentmodification="{nothing}"
ddb.comment=""
""".encode()
    return text + bytes(-len(text) % SECTOR)
