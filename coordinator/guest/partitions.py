"""The partitions of a disk: MBR with its extended partitions, and GPT.

The table was written by a guest: numbers that lead outside the disk, and chains that lead in a
circle, are passed over.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

#: Reads `length` bytes at `offset`; fewer only at the end.
Read = Callable[[int, int], bytes]

_SECTOR: Final = 512
_EXTENDED: Final = (0x05, 0x0F, 0x85)
_PROTECTIVE: Final = 0xEE
_MOST_LOGICAL: Final = 128
_MOST_GPT: Final = 1024
_ENTRY_BYTES: Final = range(128, 4097)


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of a disk, in bytes. `number` is that of Linux and of `fdisk`; 0: the whole disk."""

    number: int
    start: int
    size: int


def partitions(read: Read, size: int) -> tuple[Partition, ...]:
    """The partitions of a disk of `size` bytes, by number; empty if it has no table.

    Raises what `read` raises.
    """
    sector = read(0, _SECTOR)
    if len(sector) < _SECTOR or sector[510:] != b"\x55\xaa":
        return ()
    kinds = [kind for kind, _, _ in _entries(sector)]
    found = _of_gpt(read, size) if _PROTECTIVE in kinds else _of_mbr(read, sector)
    return tuple(
        part
        for part in sorted(found, key=lambda part: part.number)
        if part.start > 0 and part.size > 0 and part.start + part.size <= size
    )


def _entries(sector: bytes) -> list[tuple[int, int, int]]:
    """Kind, first sector and number of sectors of the four entries of a boot sector."""
    found = []
    for place in range(446, 510, 16):
        status, kind, first, count = struct.unpack_from("<B3xB3xII", sector, place)
        valid = status in (0, 0x80) and kind and first and count
        found.append((kind, first, count) if valid else (0, 0, 0))
    return found


def _of_mbr(read: Read, sector: bytes) -> Iterator[Partition]:
    for number, (kind, first, count) in enumerate(_entries(sector), 1):
        if kind in _EXTENDED:
            yield from _logical(read, first)
        elif kind:
            yield Partition(number, first * _SECTOR, count * _SECTOR)


def _logical(read: Read, base: int) -> Iterator[Partition]:
    """The partitions inside an extended one: a chain of boot sectors."""
    seen: set[int] = set()
    place = base
    while place not in seen and len(seen) < _MOST_LOGICAL:
        seen.add(place)
        sector = read(place * _SECTOR, _SECTOR)
        if len(sector) < _SECTOR or sector[510:] != b"\x55\xaa":
            return
        (kind, first, count), (link, following, _), *_ = _entries(sector)
        if kind and kind not in _EXTENDED:
            yield Partition(4 + len(seen), (place + first) * _SECTOR, count * _SECTOR)
        if link not in _EXTENDED:
            return
        place = base + following


def _of_gpt(read: Read, size: int) -> Iterator[Partition]:
    """By the first header, or by the second one at the end of the disk if that is damaged."""
    for place in (_SECTOR, size - _SECTOR):
        header = read(place, _SECTOR)
        if len(header) < _SECTOR or header[:8] != b"EFI PART" or not _is_whole(header):
            continue
        first, count, width = struct.unpack_from("<QII", header, 72)
        if width not in _ENTRY_BYTES or first * _SECTOR >= size:
            continue
        table = read(first * _SECTOR, min(count, _MOST_GPT) * width)
        for number, at in enumerate(range(0, len(table) - width + 1, width), 1):
            if table[at : at + 16] != bytes(16):
                begin, end = struct.unpack_from("<QQ", table, at + 32)
                yield Partition(number, begin * _SECTOR, (end - begin + 1) * _SECTOR)
        return


def _is_whole(header: bytes) -> bool:
    length, checksum = struct.unpack_from("<II", header, 12)
    if not 92 <= length <= _SECTOR:
        return False
    return bool(zlib.crc32(header[:16] + bytes(4) + header[20:length]) == checksum)
