"""The header of a VDI file: reads it, refuses one that VirtualBox would not write, writes its UUID.

All numbers of the format are little-endian. The header starts at 0x40, behind a line of text.
"""

import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final
from uuid import UUID

from shared.host.errors import DiskImageError

SECTOR: Final = 512


HEADER_BYTES: Final = 512


_SIGNATURE: Final = 0xBEDA107F


_HEADER_START: Final = 0x48


_SHORTEST_HEADER: Final = 384


_SMALLEST_BLOCK: Final = 64 * 1024


_LARGEST_BLOCK: Final = 1024 * 1024


_NO_UUID: Final = UUID(int=0)


_OWN_AT: Final = 0x188


_PARENT_AT: Final = 0x1A8


class Kind(IntEnum):
    """The image types that are read. Type 3 (undo) was never in use."""

    DYNAMIC = 1
    FIXED = 2
    DIFFERENCING = 4


@dataclass(frozen=True, slots=True)
class VdiHeader:
    """What the header of a VDI file says, in bytes. `size` is that of the disk the guest sees."""

    kind: Kind
    map_offset: int
    data_offset: int
    size: int
    block_size: int
    blocks: int
    allocated: int
    identifier: UUID
    modification: UUID
    parent: UUID | None
    parent_modification: UUID


def parse_header(data: bytes) -> VdiHeader:
    """The header in the first 512 bytes of a file.

    Raises `DiskImageError` for anything that VirtualBox would not write.
    """
    require(len(data) >= HEADER_BYTES, "the file is shorter than a VDI header")
    signature, version, length, kind = struct.unpack_from("<4I", data, 0x40)
    require(signature == _SIGNATURE, "this is no VDI file")
    require(version >> 16 == 1, f"VDI version {version >> 16}.{version & 0xFFFF}")
    require(kind in tuple(Kind), f"VDI type {kind}")
    map_offset, data_offset = struct.unpack_from("<2I", data, 0x154)
    (sector_size,) = struct.unpack_from("<I", data, 0x168)
    size, block_size, extra, blocks, allocated = struct.unpack_from("<Q4I", data, 0x170)
    identifier, modification, parent, parent_modification = _uuids(data)
    require(
        _SHORTEST_HEADER <= length <= map_offset - _HEADER_START,
        f"a header of {length} bytes before a map at {map_offset}",
    )
    require(sector_size in (0, SECTOR), f"sectors of {sector_size} bytes")
    require(size > 0 and size % SECTOR == 0, f"a disk of {size} bytes")
    require(_is_block_size(block_size), f"blocks of {block_size} bytes")
    require(extra == 0, f"{extra} bytes before each block")
    require(blocks == -(-size // block_size), f"{blocks} blocks for a disk of {size} bytes")
    require(allocated <= blocks, f"{allocated} of {blocks} blocks allocated")
    require(
        data_offset >= map_offset + 4 * blocks, f"data at {data_offset} inside of the block map"
    )
    require(
        (kind == Kind.DIFFERENCING) == (parent != _NO_UUID),
        "its type and its parent contradict each other",
    )
    return VdiHeader(
        kind=Kind(kind),
        map_offset=map_offset,
        data_offset=data_offset,
        size=size,
        block_size=block_size,
        blocks=blocks,
        allocated=allocated,
        identifier=identifier,
        modification=modification,
        parent=None if parent == _NO_UUID else parent,
        parent_modification=parent_modification,
    )


def _uuids(data: bytes) -> tuple[UUID, UUID, UUID, UUID]:
    """Its own, that of its last change, and both of its parent."""
    own, changed, parent, parent_changed = (
        UUID(bytes_le=data[at : at + 16]) for at in (0x188, 0x198, 0x1A8, 0x1B8)
    )
    require(_NO_UUID not in (own, changed), "no UUID")
    return own, changed, parent, parent_changed


def _is_block_size(value: int) -> bool:
    return _SMALLEST_BLOCK <= value <= _LARGEST_BLOCK and value & (value - 1) == 0


def require(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Raises `DiskImageError` with this sentence unless the condition holds."""
    if not condition:
        raise DiskImageError(otherwise)


def give_identity(path: Path, identifier: UUID, parent: VdiHeader | None) -> VdiHeader:
    """Gives the clone of an image a UUID of its own, for VirtualBox knows one image by each.

    Answers the header as it is then.

    `parent` is the header of its parent, of which it notes UUID and modification, whatever it noted
    before. Raises `DiskImageError` if it is no such image, `OSError`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        header = parse_header(os.pread(descriptor, HEADER_BYTES, 0))
        require((header.parent is None) == (parent is None), f"{path}: it has another parent")
        os.pwrite(descriptor, identifier.bytes_le, _OWN_AT)
        if parent is not None:
            link = parent.identifier.bytes_le + parent.modification.bytes_le
            os.pwrite(descriptor, link, _PARENT_AT)
        return parse_header(os.pread(descriptor, HEADER_BYTES, 0))
    finally:
        os.close(descriptor)
