"""A check of a stream-optimised VMDK that has no digest.

Every grain is unpacked, every table compared with what was met.

VirtualBox leaves disks of some names out of its manifest (see `manifest.left_out_by_virtualbox`).
Each grain is a zlib stream with a checksum of its own; the tables at the end must name exactly the
places where the grains were. What stays unproven is the descriptor's text and the header's unused
bytes: a few hundred bytes that hold no data of the guest.
"""

import struct
import zlib
from array import array
from dataclasses import dataclass
from typing import Final

from shared.host.errors import CopyError

SECTOR: Final = 512
_HEADER: Final = struct.Struct("<4sIIQQQQIQQQB")
_MARKER: Final = struct.Struct("<QI")
_END, _TABLE, _DIRECTORY, _FOOTER, _FILLER = 0, 1, 2, 3, 4
#: Grains are 64 KiB; packed they are never much longer. Bounds what is held in memory.
_GRAIN_LIMIT: Final = 1 << 20
_TABLES_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Geometry:
    capacity: int
    grain: int
    entries: int
    overhead: int

    @property
    def tables(self) -> int:
        """How many grain tables the disk has."""
        return -(-self.capacity // (self.grain * self.entries))


class VmdkCheck:
    """Takes the bytes of one VMDK in pieces of any size.

    Holds no more than a grain and its tables (4 bytes a grain table entry).
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._buffer = bytearray()
        self._position = 0
        self._need = SECTOR
        self._step = self._read_header
        self._header = b""
        self._geometry = _Geometry(0, 1, 1, 1)
        self._table: dict[int, int] = {}
        self._tables: dict[int, int] = {}
        self._last_grain = -1
        self._directory_at = 0
        self._kind = _END

    def update(self, data: bytes | memoryview) -> None:
        """The next bytes. Raises `CopyError` at the first thing that is wrong."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= self._need:
            piece = bytes(self._buffer[start : start + self._need])
            start += self._need
            at, self._position = self._position, self._position + self._need
            self._step(piece, at)
        del self._buffer[:start]

    def finish(self) -> None:
        """After the last bytes. Raises `CopyError` if the disk does not end where it should."""
        if self._step != self._after_end or self._buffer:
            raise self._damaged("is cut off")

    def _expect(self, need: int, step: object) -> None:
        self._need, self._step = need, step  # type: ignore[assignment]

    def _read_header(self, piece: bytes, _: int) -> None:
        magic, version, flags, capacity, grain, _, _, entries, _, directory, overhead, _ = (
            _HEADER.unpack_from(piece)
        )
        sane = (
            0 < grain <= 2048
            and 0 < entries <= 4096
            and 0 < overhead <= 4096
            and 0 < capacity < 1 << 46
        )
        if (magic, version, flags & 0x30000, directory) != (
            b"KDMV",
            3,
            0x30000,
            (1 << 64) - 1,
        ) or not sane:
            raise self._damaged("has no header of a stream-optimised disk")
        self._geometry = _Geometry(capacity, grain, entries, overhead)
        if self._geometry.tables > _TABLES_LIMIT:
            raise self._damaged("is impossibly large")
        self._header = piece
        if overhead == 1:
            self._expect(SECTOR, self._read_marker)
        else:
            self._expect((overhead - 1) * SECTOR, self._skip_overhead)

    def _skip_overhead(self, _: bytes, __: int) -> None:
        self._expect(SECTOR, self._read_marker)

    def _read_marker(self, piece: bytes, at: int) -> None:
        value, size = _MARKER.unpack_from(piece)
        if size:
            self._begin_grain(piece, at, value, size)
            return
        (kind,) = struct.unpack_from("<I", piece, 12)
        expected = {
            _END: 0,
            _TABLE: -(-self._geometry.entries * 4 // SECTOR),
            _DIRECTORY: -(-self._geometry.tables * 4 // SECTOR),
            _FOOTER: 1,
        }
        if (
            any(piece[16:])
            or kind not in {*expected, _FILLER}
            or (kind in expected and value != expected[kind])
        ):
            raise self._damaged(f"has a damaged marker at byte {at}")
        if kind == _END:
            self._expect(SECTOR, self._after_end)
        elif kind != _FILLER:
            self._kind = kind
            self._expect(value * SECTOR, self._read_metadata)

    def _begin_grain(self, piece: bytes, at: int, sector: int, size: int) -> None:
        grain, rest = divmod(sector, self._geometry.grain)
        if (
            rest
            or sector >= self._geometry.capacity
            or grain <= self._last_grain
            or size > _GRAIN_LIMIT
        ):
            raise self._damaged(f"has a damaged grain marker at byte {at}")
        self._last_grain = grain
        self._table[grain] = at // SECTOR
        total = -(-(_MARKER.size + size) // SECTOR) * SECTOR
        if total == SECTOR:
            self._check_grain(piece, size, at)
            return
        self._expect(total - SECTOR, lambda more, _: self._end_grain(piece + more, size, at))

    def _end_grain(self, piece: bytes, size: int, at: int) -> None:
        self._check_grain(piece, size, at)
        self._expect(SECTOR, self._read_marker)

    def _check_grain(self, piece: bytes, size: int, at: int) -> None:
        limit = self._geometry.grain * SECTOR
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(piece[_MARKER.size : _MARKER.size + size], limit + 1)
        except zlib.error:
            raise self._damaged(f"has a damaged grain at byte {at}") from None
        if (
            not unpacker.eof
            or unpacker.unused_data
            or len(data) != limit
            or any(piece[_MARKER.size + size :])
        ):
            raise self._damaged(f"has a damaged grain at byte {at}")

    def _read_metadata(self, piece: bytes, at: int) -> None:
        {_TABLE: self._check_table, _DIRECTORY: self._check_directory, _FOOTER: self._check_footer}[
            self._kind
        ](piece, at)
        self._expect(SECTOR, self._read_marker)

    def _check_table(self, piece: bytes, at: int) -> None:
        entries = self._geometry.entries
        numbers = {grain // entries for grain in self._table}
        if len(numbers) > 1:
            raise self._damaged(f"has grains that no table names, before byte {at}")
        expected = array("I", bytes(4 * entries))
        for grain, sector in self._table.items():
            expected[grain % entries] = sector
        if _words(piece)[:entries] != expected or any(piece[4 * entries :]):
            raise self._damaged(f"has a damaged grain table at byte {at}")
        for number in numbers:
            self._tables[number] = at // SECTOR
        self._table.clear()

    def _check_directory(self, piece: bytes, at: int) -> None:
        expected = array("I", bytes(len(piece)))
        for number, sector in self._tables.items():
            expected[number] = sector
        if self._table or _words(piece) != expected:
            raise self._damaged(f"has a damaged grain directory at byte {at}")
        self._directory_at = at // SECTOR

    def _check_footer(self, piece: bytes, _: int) -> None:
        place = slice(56, 64)  # the directory's place: unknown in the header, given in the footer
        same = piece[:56] == self._header[:56] and piece[64:] == self._header[64:]
        if (
            not same
            or int.from_bytes(piece[place], "little") != self._directory_at
            or not self._directory_at
        ):
            raise self._damaged("has a damaged footer")

    def _after_end(self, piece: bytes, at: int) -> None:
        raise self._damaged(f"goes on after its end, at byte {at}" if piece else "is empty")

    def _damaged(self, what: str) -> CopyError:
        return CopyError(f"the disk {self._name!r} {what}")


def _words(piece: bytes) -> "array[int]":
    words = array("I", piece)
    if struct.pack("=H", 1) != struct.pack("<H", 1):
        words.byteswap()
    return words
