"""The bytes of a grain as they are in a copy: compared with its digest, and inflated, in bounds."""

from collections.abc import Callable
from typing import Final, TypeVar

from shared.ova.index import grain_digest
from shared.ova.vmdk import GRAIN_HEADER, SECTOR

#: Copies may be laid out so that units begin and end at blocks of the file system.
ALIGNMENT: Final = 4096
#: Deflate adds next to nothing to what cannot be compressed: so much longer is none of a grain.
SLACK: Final = 2 * ALIGNMENT

#: What a grain is inflated to: an array where that saves copying it.
Plain = TypeVar("Plain", bound=bytes | bytearray)
#: Inflates one zlib stream to at most so many bytes. Raises ValueError for anything else.
Inflate = Callable[[bytes | memoryview, int], Plain]


def laid_out(data: bytes, number: int, grain_sectors: int) -> bytes:
    """The whole sectors of the grain with this number, with which `data` begins.

    Empty if `data` does not begin with it, or ends before it ends.
    """
    if len(data) < GRAIN_HEADER.size:
        return b""
    first, size = GRAIN_HEADER.unpack_from(data)
    end = -(-(GRAIN_HEADER.size + size) // SECTOR) * SECTOR
    if first != number * grain_sectors or not size or end > len(data):
        return b""
    return data[:end]


def has_digest(data: bytes, length: int, position: int, digest: bytes) -> bool:
    """Whether this is the digest of the grain of `length` bytes with which `data` begins.

    `position` is its place in the OVA: what fills the unit up belongs to the last grain of it.
    """
    filled = length + -(position + length) % ALIGNMENT
    return digest in (grain_digest(data[:length]), grain_digest(data[:filled]))


def unpack(piece: bytes, grain_bytes: int, inflate: Inflate[Plain]) -> Plain:
    """The grain of which `piece` is what `laid_out` returned.

    Raises ValueError unless that is one stream of exactly one grain; takes no more memory than
    that, whatever the stream says.
    """
    _, size = GRAIN_HEADER.unpack_from(piece)
    data = inflate(memoryview(piece)[GRAIN_HEADER.size : GRAIN_HEADER.size + size], grain_bytes)
    if len(data) != grain_bytes:
        raise ValueError(f"it has {len(data)} bytes")
    return data
