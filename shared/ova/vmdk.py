"""The stream-optimised VMDK, the only disk format that VirtualBox puts into an OVA: its layout.

The disk is cut into grains of 64 KiB. In the file come, in sectors of 512 bytes: a header with a
descriptor in text (128 sectors), then compressed grains in the order of the disk, after each run of
512 grains (32 MiB) the table that says where those grains are, at the end the directory of the
tables, the header again with the directory's place, and a marker for the end. Grains of zeros are
left out, and so are tables of nothing. All numbers are little-endian.

`vmdk_writing` makes such files, `vmdk_check` reads them.
"""

import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final, Self
from uuid import UUID

SECTOR: Final = 512
#: What is written; other sizes are read, too.
GRAIN: Final = 64 * 1024
TABLE_GRAINS: Final = 512
OVERHEAD_SECTORS: Final = 128
#: Sectors are 32-bit numbers in the tables.
LARGEST_BYTES: Final = (2**32 - 1) * SECTOR

#: 32 TiB. VirtualBox puts no disk into an OVA that is nearly as large; whoever restores one has a
#: list of its blocks in memory.
_CAPACITY_LIMIT: Final = 1 << 36
#: Before each compressed grain: its first sector on the disk, and how many bytes follow.
GRAIN_HEADER: Final = struct.Struct("<QI")
#: The directory's place in the first header, where it is not known yet; the footer has it.
DIRECTORY_AT_END: Final = 0xFFFFFFFFFFFFFFFF
#: Where that is, in bytes of the header.
DIRECTORY_FIELD: Final = slice(56, 64)
#: How grains are compressed. Our readers go by the flags alone.
COMPRESSION_FIELD: Final = slice(77, 79)
DEFLATE: Final = 1

_MAGIC: Final = b"KDMV"
_VERSION: Final = 3
_NEWLINES: Final = b"\n \r\n"  # a transfer as text would change them
_FLAGS: Final = 0x30001  # newline test valid, compressed grains, markers
_COMPRESSED_WITH_MARKERS: Final = 0x30000
_HEADER: Final = struct.Struct("<4sIIQQQQIQQQB4sH")
#: Sectors that follow, size (0: this is no grain), kind.
_MARKER: Final = struct.Struct("<QII")


@unique
class MarkerKind(IntEnum):
    """What follows a sector that is no grain. Readers skip fillers (VirtualBox and qemu do)."""

    END = 0
    TABLE = 1
    DIRECTORY = 2
    FOOTER = 3
    FILLER = 4


@dataclass(frozen=True, slots=True)
class VmdkHeader:
    """The first sector: sizes in sectors, but `table_grains`, which counts grains."""

    capacity: int
    descriptor_sectors: int
    directory: int = DIRECTORY_AT_END
    grain: int = GRAIN // SECTOR
    table_grains: int = TABLE_GRAINS
    overhead: int = OVERHEAD_SECTORS

    @property
    def tables(self) -> int:
        """How many grain tables the disk has."""
        return -(-self.capacity // (self.grain * self.table_grains))

    def render(self) -> bytes:
        """The sector."""
        return _HEADER.pack(
            _MAGIC,
            _VERSION,
            _FLAGS,
            self.capacity,
            self.grain,
            1,  # where the descriptor begins
            self.descriptor_sectors,
            self.table_grains,
            0,  # no redundant directory
            self.directory,
            self.overhead,
            0,  # not in use by anybody
            _NEWLINES,
            DEFLATE,
        ).ljust(SECTOR, b"\0")

    @classmethod
    def parse(cls, sector: bytes) -> Self:
        """The first header of a file. Raises ValueError if it is none of such a disk.

        Fields that no reader needs may hold anything.
        """
        (magic, version, flags, capacity, grain, _, length, table, _, directory, overhead, *_) = (
            _HEADER.unpack_from(sector)
        )
        if (magic, version, flags & _COMPRESSED_WITH_MARKERS, directory) != (
            _MAGIC,
            _VERSION,
            _COMPRESSED_WITH_MARKERS,
            DIRECTORY_AT_END,
        ) or not (
            0 < grain <= 2048
            and 0 < table <= 4096
            and 0 < overhead <= 4096
            and 0 < capacity <= _CAPACITY_LIMIT
        ):
            raise ValueError("no header of a stream-optimised disk")
        return cls(capacity, length, directory, grain, table, overhead)


def render_marker(kind: MarkerKind, sectors: int = 0) -> bytes:
    """The sector before a table, directory or footer of so many sectors; or an end, or a filler."""
    return _MARKER.pack(sectors, 0, kind).ljust(SECTOR, b"\0")


def parse_marker(sector: bytes) -> tuple[MarkerKind, int]:
    """What follows, and how many sectors it has. Raises ValueError for a damaged marker."""
    sectors, _, kind = _MARKER.unpack_from(sector)
    if any(sector[_MARKER.size :]):
        raise ValueError("bytes behind the marker")
    return MarkerKind(kind), sectors


def pack_sectors(numbers: Sequence[int]) -> bytes:
    """A table or directory as it is in the file, not filled up to whole sectors."""
    return struct.pack(f"<{len(numbers)}I", *numbers)


def unpack_sectors(data: bytes) -> "array[int]":
    """The numbers of a table or directory."""
    numbers = array("I", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def render_descriptor(name: str, sectors: int, content: int, identifier: UUID) -> bytes:
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
