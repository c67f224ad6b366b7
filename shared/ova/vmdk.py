"""The stream-optimised VMDK, the only disk format that VirtualBox puts into an OVA.

Pure: bytes in, bytes out.

The disk is cut into grains of 64 KiB. In the file come, in sectors of 512 bytes: a header with a
descriptor in text (128 sectors), then compressed grains in the order of the disk, after each run of
512 grains (32 MiB) the table that says where those grains are, at the end the directory of the
tables, the header again with the directory's place, and a marker for the end. Grains of zeros are
left out, and so are tables of nothing.
"""

import itertools
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from shared.host.errors import CopyError, DiskImageError
from shared.ova.compression import Codec

SECTOR: Final = 512
GRAIN: Final = 64 * 1024
#: Sectors are 32-bit numbers in the tables.
LARGEST_BYTES: Final = (2**32 - 1) * SECTOR

_GRAIN_SECTORS: Final = GRAIN // SECTOR
_TABLE_GRAINS: Final = 512
_OVERHEAD_SECTORS: Final = 128
_NOT_YET: Final = 0xFFFFFFFFFFFFFFFF
_FLAGS: Final = 0x30001  # newline test valid, compressed grains, markers
_ZEROS: Final = bytes(GRAIN)
_GRAIN_HEADER: Final = struct.Struct("<QI")  # first sector on the disk, compressed bytes
_MARKER_END, _MARKER_TABLE, _MARKER_DIRECTORY, _MARKER_FOOTER, _MARKER_FILLER = range(5)
#: A marker that readers skip (type 4, seen accepted by VirtualBox and qemu).
_FILLER: Final = struct.pack("<QII", 0, 0, _MARKER_FILLER).ljust(SECTOR, b"\0")


#: A digest of the bytes that it is given.
Digest = Callable[[bytes | memoryview], bytes]


@dataclass(frozen=True, slots=True)
class Unit:
    """Neighbouring grains, compressed and laid out.

    `places` has the number of each grain and its sector within `data`.

    `digests` has one for the bytes of each grain as laid out, if they were asked for.
    """

    data: bytes
    places: tuple[tuple[int, int], ...]
    digests: tuple[bytes, ...] = ()


def compress_unit(
    position: int,
    data: bytes,
    codec: Codec,
    *,
    self_check: bool,
    digest: Digest | None = None,
    alignment: int = SECTOR,
) -> Unit:
    """Compresses the part of a disk at `position`, a multiple of the grain.

    A last short grain is filled up with zeros.

    With `self_check` each grain is inflated again and compared: `CopyError` if it differs. The unit
    is filled up to a multiple of `alignment` bytes; what fills it belongs to its last grain.
    """
    if missing := -len(data) % GRAIN:
        data += bytes(missing)
    view = memoryview(data)  # `startswith` and slices of a view compare and pass on without copying
    pieces: list[bytes] = []
    places: list[tuple[int, int]] = []
    sector = 0
    for offset in range(0, len(data), GRAIN):
        if data.startswith(_ZEROS, offset):
            continue
        packed = codec.compress(view[offset : offset + GRAIN])
        if self_check and not _holds(codec.decompress(packed), data, offset):
            raise CopyError(
                f"compressing with {codec.name} went wrong at byte {position + offset} of the disk",
                hint="test the memory of this host",
            )
        padding = -(len(packed) + _GRAIN_HEADER.size) % SECTOR
        pieces += (
            _GRAIN_HEADER.pack((position + offset) // SECTOR, len(packed)),
            packed,
            _ZEROS[:padding],
        )
        places.append(((position + offset) // GRAIN, sector))
        sector += (_GRAIN_HEADER.size + len(packed) + padding) // SECTOR
    if pieces:
        pieces.append(_FILLER * (-sector % (alignment // SECTOR)))
    unit = b"".join(pieces)
    return Unit(
        unit, tuple(places), tuple(digest(part) for part in _parts(unit, places)) if digest else ()
    )


def _holds(inflated: bytes, data: bytes, offset: int) -> bool:
    """Whether this is the grain of `data` at `offset`."""
    return len(inflated) == GRAIN and data.startswith(inflated, offset)


def _parts(unit: bytes, places: Sequence[tuple[int, int]]) -> Iterator[memoryview]:
    """The grains as laid out, each up to where the next one begins."""
    view = memoryview(unit)
    starts = [sector * SECTOR for _, sector in places]
    for start, end in itertools.pairwise([*starts, len(unit)]):
        yield view[start:end]


class Layout:
    """Lays one VMDK out: `begin`, `add` for each unit in the order of the disk, `end`.

    The results, one after the other, are the file.
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
        """`size` of the disk in bytes.

        `content` is a random 32-bit number and `identifier` a random UUID, both only for the
        descriptor.

        Units begin at multiples of `alignment` bytes of the file in which this one begins at
        `position`.
        """
        self._descriptor = _descriptor(name, size // SECTOR, content, identifier)
        self._capacity = -(-size // GRAIN) * _GRAIN_SECTORS
        self._directory = array("I", bytes(4 * -(-size // (GRAIN * _TABLE_GRAINS))))
        self._table = array("I", bytes(4 * _TABLE_GRAINS))
        self._table_number = 0
        self._position, self._alignment = position, alignment
        self.sectors = 0

    def begin(self) -> bytes:
        """The header and the descriptor."""
        return self._place(
            (self._header(_NOT_YET) + self._descriptor).ljust(_OVERHEAD_SECTORS * SECTOR, b"\0")
        )

    def add(self, unit: Unit) -> Iterator[bytes]:
        """Lays out one unit: perhaps a table, perhaps what aligns it, then the unit's own bytes.

        Nothing for a unit of zeros.
        """
        if not unit.places:
            return
        number = unit.places[0][0] // _TABLE_GRAINS
        if number != self._table_number:
            yield from self._end_table()
            self._table_number = number
        if missing := -(self._position + self.sectors * SECTOR) % self._alignment:
            yield self._place(_FILLER * (missing // SECTOR))
        for grain, sector in unit.places:
            self._table[grain % _TABLE_GRAINS] = self.sectors + sector
        yield self._place(unit.data)

    def end(self) -> Iterator[bytes]:
        """The last table, the directory, the footer."""
        yield from self._end_table()
        directory = _little_endian(self._directory)
        directory += bytes(-len(directory) % SECTOR)
        place = self.sectors + 1
        yield self._place(_marker(len(directory) // SECTOR, _MARKER_DIRECTORY) + directory)
        yield self._place(
            _marker(1, _MARKER_FOOTER) + self._header(place) + _marker(0, _MARKER_END)
        )

    def _end_table(self) -> Iterator[bytes]:
        if any(self._table):
            self._directory[self._table_number] = self.sectors + 1
            table = _little_endian(self._table)
            yield self._place(_marker(len(table) // SECTOR, _MARKER_TABLE) + table)
            self._table = array("I", bytes(4 * _TABLE_GRAINS))

    def _place(self, data: bytes) -> bytes:
        self.sectors += len(data) // SECTOR
        if self.sectors * SECTOR > LARGEST_BYTES:
            raise DiskImageError("the compressed disk does not fit into the 2 TiB of a VMDK")
        return data

    def _header(self, directory: int) -> bytes:
        fields = (
            b"KDMV",
            3,
            _FLAGS,
            self._capacity,
            _GRAIN_SECTORS,
            1,
            len(self._descriptor) // SECTOR,
            _TABLE_GRAINS,
            0,
            directory,
        )
        return struct.pack("<4sIIQQQQIQQQB4sH", *fields, _OVERHEAD_SECTORS, 0, b"\n \r\n", 1).ljust(
            SECTOR, b"\0"
        )


def _marker(sectors: int, kind: int) -> bytes:
    return struct.pack("<QII", sectors, 0, kind).ljust(SECTOR, b"\0")


def _little_endian(numbers: "array[int]") -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


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
