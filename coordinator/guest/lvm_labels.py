"""What LVM wrote at the beginning of a partition: whose it is, and what describes its group.

The format is that of `lvm2/lib/format_text/layout.h` and `lvm2/lib/label/label.h`. A guest wrote
it: what leads outside the partition, or has another checksum than it says, is passed over.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from coordinator.guest.lvm_text import MOST_BYTES
from coordinator.guest.partitions import Read

_SECTOR: Final = 512
#: LVM begins its checksums with this.
_SEED: Final = 0xF597A6CF
_AREA_MAGIC: Final = b" LVM2 x[5A%r0N*>"
_MOST_AREAS: Final = 2


@dataclass(frozen=True, slots=True)
class Label:
    """A physical volume: its UUID without hyphens, and the descriptions of its group in it."""

    uuid: str
    texts: tuple[bytes, ...]


def checksum(data: bytes) -> int:
    """The checksum of LVM: a CRC-32 that begins with another number, and is not inverted."""
    return ~zlib.crc32(data, ~_SEED & 0xFFFFFFFF) & 0xFFFFFFFF


def read_label(read: Read, size: int) -> Label | None:
    """The label of a partition of `size` bytes; None if there is none that is whole.

    Raises what `read` raises.
    """
    head = read(0, 4 * _SECTOR)
    for at in range(0, len(head) - _SECTOR + 1, _SECTOR):
        sector = head[at : at + _SECTOR]
        if sector[:8] != b"LABELONE" or sector[24:32] != b"LVM2 001":
            continue
        said, contents = struct.unpack_from("<II", sector, 16)
        if said == checksum(sector[20:]) and 32 <= contents <= _SECTOR - 40:
            uuid = sector[contents : contents + 32].decode("ascii", "replace")
            areas = list(_areas(sector, contents + 40))[:_MOST_AREAS]
            return Label(uuid, tuple(text for area in areas if (text := _text(read, area, size))))
    return None


def _areas(sector: bytes, place: int) -> Iterator[tuple[int, int]]:
    """Where descriptions are: behind the list of areas of data, each ends with zeros."""
    lists = 0
    while place + 16 <= _SECTOR:
        start, size = struct.unpack_from("<QQ", sector, place)
        place += 16
        if start == 0:
            lists += 1
        elif lists == 1:
            yield start, size
        if lists > 1:
            return


def _text(read: Read, area: tuple[int, int], size: int) -> bytes:
    """The description that counts in an area; empty if there is none that is whole.

    An area is written in a circle behind its first sector.
    """
    place, _ = area
    header = read(place, _SECTOR) if place + _SECTOR <= size else b""
    if len(header) < _SECTOR or header[4:20] != _AREA_MAGIC:
        return b""
    said, _, _, start, room, at, length, of_text = struct.unpack_from("<I16sIQQQQI", header)
    fits = start == place and room > _SECTOR and place + room <= size
    if said != checksum(header[4:]) or not fits:
        return b""
    if not _SECTOR <= at < room or not 0 < length <= min(room - _SECTOR, MOST_BYTES):
        return b""
    before_end = min(length, room - at)
    text = read(place + at, before_end)
    if length > before_end:
        text += read(place + _SECTOR, length - before_end)
    return text if checksum(text) == of_text else b""
