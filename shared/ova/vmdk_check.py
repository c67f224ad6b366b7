"""Checks a VMDK (see `vmdk`) that has no digest: unpacks every grain, compares every table.

VirtualBox leaves disks of some names out of its manifest (see `manifest.left_out_by_virtualbox`).
Each grain is a zlib stream with a checksum of its own; the tables at the end must name exactly the
places where the grains were. What stays unproven is the descriptor's text and the header's unused
bytes: a few hundred bytes that hold no data of the guest.
"""

import zlib
from array import array
from collections.abc import Callable
from typing import Final

from shared.host.errors import CopyError
from shared.ova.vmdk import (
    DIRECTORY_FIELD,
    GRAIN_HEADER,
    SECTOR,
    MarkerKind,
    VmdkHeader,
    parse_marker,
    unpack_sectors,
)

#: Grains are 64 KiB; packed they are never much longer. Bounds what is held in memory.
_GRAIN_LIMIT: Final = 1 << 20
_TABLES_LIMIT: Final = 1 << 20


class VmdkCheck:
    """Takes the bytes of one VMDK in pieces of any size.

    Holds no more than a grain and its tables (4 bytes a grain table entry).
    """

    def __init__(self, name: str, take: Callable[[int, bytes, int], None] | None = None) -> None:
        """With `take`, grains are passed on instead of unpacked: number, bytes, sectors unpacked.

        The bytes are whole sectors, as they are in the file.
        """
        self._name = name
        self._take = take
        self._buffer = bytearray()
        self._position = 0
        self._need = SECTOR
        self._step = self._read_header
        self._header = b""
        self._layout = VmdkHeader(0, 0)
        self._table: dict[int, int] = {}
        self._tables: dict[int, int] = {}
        self._last_grain = -1
        self._directory_at = 0
        self._kind = MarkerKind.END

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
        try:
            self._layout = VmdkHeader.parse(piece)
        except ValueError:
            raise self._damaged("has no header of a stream-optimised disk") from None
        if self._layout.tables > _TABLES_LIMIT:
            raise self._damaged("is impossibly large")
        self._header = piece
        if self._layout.overhead == 1:
            self._expect(SECTOR, self._read_marker)
        else:
            self._expect((self._layout.overhead - 1) * SECTOR, self._skip_overhead)

    def _skip_overhead(self, _: bytes, __: int) -> None:
        self._expect(SECTOR, self._read_marker)

    def _read_marker(self, piece: bytes, at: int) -> None:
        sector, size = GRAIN_HEADER.unpack_from(piece)
        if size:
            self._begin_grain(piece, at, sector, size)
            return
        expected = {
            MarkerKind.END: 0,
            MarkerKind.TABLE: -(-self._layout.table_grains * 4 // SECTOR),
            MarkerKind.DIRECTORY: -(-self._layout.tables * 4 // SECTOR),
            MarkerKind.FOOTER: 1,
        }
        try:
            kind, sectors = parse_marker(piece)
        except ValueError:
            raise self._damaged(f"has a damaged marker at byte {at}") from None
        if sectors != expected.get(kind, sectors):
            raise self._damaged(f"has a damaged marker at byte {at}")
        if kind == MarkerKind.END:
            self._expect(SECTOR, self._after_end)
        elif kind != MarkerKind.FILLER:
            self._kind = kind
            self._expect(sectors * SECTOR, self._read_metadata)

    def _begin_grain(self, piece: bytes, at: int, sector: int, size: int) -> None:
        grain, rest = divmod(sector, self._layout.grain)
        if (
            rest
            or sector >= self._layout.capacity
            or grain <= self._last_grain
            or size > _GRAIN_LIMIT
        ):
            raise self._damaged(f"has a damaged grain marker at byte {at}")
        entries = self._layout.table_grains
        if self._table and grain // entries != self._last_grain // entries:
            raise self._damaged(f"has grains that no table names, before byte {at}")
        self._last_grain = grain
        self._table[grain] = at // SECTOR
        total = -(-(GRAIN_HEADER.size + size) // SECTOR) * SECTOR
        if total == SECTOR:
            self._check_grain(piece, size, at)
            return
        self._expect(total - SECTOR, lambda more, _: self._end_grain(piece + more, size, at))

    def _end_grain(self, piece: bytes, size: int, at: int) -> None:
        self._check_grain(piece, size, at)
        self._expect(SECTOR, self._read_marker)

    def _check_grain(self, piece: bytes, size: int, at: int) -> None:
        if self._take is not None:
            self._take(self._last_grain, piece, self._layout.grain)
            return
        limit = self._layout.grain * SECTOR
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(
                piece[GRAIN_HEADER.size : GRAIN_HEADER.size + size], limit + 1
            )
        except zlib.error:
            raise self._damaged(f"has a damaged grain at byte {at}") from None
        if (
            not unpacker.eof
            or unpacker.unused_data
            or len(data) != limit
            or any(piece[GRAIN_HEADER.size + size :])
        ):
            raise self._damaged(f"has a damaged grain at byte {at}")

    def _read_metadata(self, piece: bytes, at: int) -> None:
        checks = {
            MarkerKind.TABLE: self._check_table,
            MarkerKind.DIRECTORY: self._check_directory,
            MarkerKind.FOOTER: self._check_footer,
        }
        checks[self._kind](piece, at)
        self._expect(SECTOR, self._read_marker)

    def _check_table(self, piece: bytes, at: int) -> None:
        entries = self._layout.table_grains
        expected = array("I", bytes(4 * entries))
        for grain, sector in self._table.items():
            expected[grain % entries] = sector
        if unpack_sectors(piece)[:entries] != expected or any(piece[4 * entries :]):
            raise self._damaged(f"has a damaged grain table at byte {at}")
        if self._table:
            self._tables[self._last_grain // entries] = at // SECTOR
        self._table.clear()

    def _check_directory(self, piece: bytes, at: int) -> None:
        expected = array("I", bytes(len(piece)))
        for number, sector in self._tables.items():
            expected[number] = sector
        if self._table or unpack_sectors(piece) != expected:
            raise self._damaged(f"has a damaged grain directory at byte {at}")
        self._directory_at = at // SECTOR

    def _check_footer(self, piece: bytes, _: int) -> None:
        start, end = DIRECTORY_FIELD.start, DIRECTORY_FIELD.stop
        same = piece[:start] == self._header[:start] and piece[end:] == self._header[end:]
        directory = int.from_bytes(piece[DIRECTORY_FIELD], "little")
        if not same or directory != self._directory_at or not directory:
            raise self._damaged("has a damaged footer")

    def _after_end(self, piece: bytes, at: int) -> None:
        raise self._damaged(f"goes on after its end, at byte {at}" if piece else "is empty")

    def _damaged(self, what: str) -> CopyError:
        return CopyError(f"the disk {self._name!r} {what}")
