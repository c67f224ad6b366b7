"""Where the grains of a disk are in its VMDK (see `vmdk`): tables read when they are asked for.

The file comes from a place where others may write, so each number in it may be a lie: a table has
to lie inside of the disk's file behind a table's marker, a grain inside of the file; what a grain
says of itself is compared when it is read. Where the copy has an index, the tables must say what it
says. A few tables are held, whatever the size of the disk.
"""

import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from shared.ova.grain_data import SLACK
from shared.ova.index import GrainIndex, IndexRecord, IndexSection
from shared.ova.vmdk import (
    COMPRESSION_FIELD,
    DEFLATE,
    DIRECTORY_FIELD,
    GRAIN_HEADER,
    SECTOR,
    MarkerKind,
    VmdkHeader,
    parse_marker,
    unpack_sectors,
)

#: Tables of a disk of 32 TiB; VirtualBox puts no disk into an OVA that is nearly as large.
TABLES_LIMIT: Final = 1 << 20
#: With their digests they have at most 100 KB each.
_TABLES_HELD: Final = 64
_WINDOW: Final = 1024

#: Reads so many bytes of the disk's file from a position of it on. Raises OSError, also for fewer.
ReadFile = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class GrainPlace:
    """Where a grain begins in the disk's file, and where at most it ends; in bytes.

    `problem` says why it cannot be there; `digest` is that of the index, None without one, and
    `sectors` how long the index says that it is, 0 if it does not.
    """

    start: int
    limit: int
    digest: bytes | None = None
    sectors: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class IndexedDisk:
    """The records of a disk in the index of its copy."""

    index: GrainIndex
    section: IndexSection

    def found(self, start: int, end: int) -> dict[int, IndexRecord]:
        """The record of each grain from the number `start` up to `end`. Raises `CopyError`.

        Records that are in no order are not found, or found for the wrong grain: they contradict
        the tables then.
        """
        first = bisect_left(range(self.section.count), start, key=self._grain)
        records = self.index.some(self.section, first, end - start)
        return {record.grain: record for record in records if start <= record.grain < end}

    def _grain(self, number: int) -> int:
        return self.index.some(self.section, number, 1)[0].grain


@dataclass(frozen=True, slots=True)
class _Table:
    sectors: "array[int]"
    ends: tuple[int, ...]
    indexed: dict[int, IndexRecord]


class GrainTables:
    """The grains of one disk, to be asked by number, in any thread."""

    def __init__(
        self, header: VmdkHeader, length: int, read: ReadFile, indexed: IndexedDisk | None
    ) -> None:
        """`header` with the place of the directory in it; the disk's file has `length` bytes."""
        self._header, self._length, self._read = header, length, read
        self._indexed = indexed
        self._held: OrderedDict[int, _Table] = OrderedDict()
        self._window: tuple[int, array[int]] = (0, array("I"))
        self._lock = threading.Lock()

    def place(self, grain: int) -> GrainPlace | None:
        """Where a grain is; None if it is zeros. Raises OSError, `CopyError`, ValueError."""
        number, entry = divmod(grain, self._header.table_grains)
        table = self._table(number)
        sector = table.sectors[entry] if table.sectors else 0
        record = table.indexed.get(grain)
        named = (record is not None, record.sector if record else 0)
        if self._indexed and named != (sector != 0, sector):
            return GrainPlace(0, 0, problem="its table and the index contradict each other")
        if not sector:
            return None
        start = sector * SECTOR
        if not self._header.overhead * SECTOR <= start < self._length:
            return GrainPlace(0, 0, problem="its table says that it is outside of the disk's file")
        following = bisect_right(table.ends, sector)
        limit = min(start + self._header.grain * SECTOR + SLACK, self._length)
        if following < len(table.ends):
            limit = min(limit, table.ends[following] * SECTOR)
        if record is None:
            return GrainPlace(start, limit)
        return GrainPlace(start, limit, record.digest, record.sectors)

    def held(self, grains: int) -> Iterator[int]:
        """The numbers of those of the first `grains` that are not zeros. Raises like `place`."""
        for number in range(-(-grains // self._header.table_grains)):
            table = self._table(number, keep=False)
            first = number * self._header.table_grains
            found = {first + entry for entry, sector in enumerate(table.sectors) if sector}
            yield from sorted(grain for grain in found | table.indexed.keys() if grain < grains)

    def check(self) -> None:
        """Reads all tables, for a reader of others that believes them, and shows zeros elsewhere.

        Raises ValueError unless the footer says what the header does, and each grain is inside of
        the file, and where the index says, if there is one; OSError, `CopyError`.
        """
        first, footer = self._read(0, SECTOR), self._read(self._length - 2 * SECTOR, SECTOR)
        if first[DIRECTORY_FIELD.stop :] != footer[DIRECTORY_FIELD.stop :]:
            raise ValueError("its header and its footer contradict each other")
        if int.from_bytes(first[COMPRESSION_FIELD], "little") != DEFLATE:
            raise ValueError("its header says that it is not compressed")
        for number in range(self._header.tables):
            table = self._table(number, keep=False)
            start = number * self._header.table_grains
            named = {start + entry: sector for entry, sector in enumerate(table.sectors) if sector}
            if self._indexed and named != {
                grain: record.sector for grain, record in table.indexed.items()
            }:
                raise ValueError(f"table {number} and the index contradict each other")
            if table.ends and not (
                self._header.overhead <= table.ends[0] and table.ends[-1] * SECTOR < self._length
            ):
                raise ValueError(f"table {number} leads out of the disk's file")

    def _table(self, number: int, *, keep: bool = True) -> _Table:
        with self._lock:
            if number in self._held:
                self._held.move_to_end(number)
                return self._held[number]
        table = self._load(number)
        if keep:
            with self._lock:
                self._held[number] = table
                while len(self._held) > _TABLES_HELD:
                    self._held.popitem(last=False)
        return table

    def _load(self, number: int) -> _Table:
        count = self._header.table_grains
        indexed = self._indexed.found(number * count, (number + 1) * count) if self._indexed else {}
        place = self._directory_entry(number)
        if not place:
            return _Table(array("I"), (), indexed)
        marker = self._read(max(0, place - 1) * SECTOR, SECTOR + 4 * count)
        if not place > self._header.overhead or parse_marker(marker[:SECTOR]) != (
            MarkerKind.TABLE,
            -(-4 * count // SECTOR),
        ):
            raise ValueError(f"the directory says that a table is at sector {place}, which is none")
        sectors = unpack_sectors(marker[SECTOR:])
        self._check_owner(number, sectors)
        return _Table(sectors, tuple(sorted({sector for sector in sectors if sector})), indexed)

    def _check_owner(self, number: int, sectors: "array[int]") -> None:
        """The table of other grains would say zeros of many of these: its first grain tells."""
        entry = next((entry for entry, sector in enumerate(sectors) if sector), None)
        if entry is None:
            return
        first, _ = GRAIN_HEADER.unpack(self._read(sectors[entry] * SECTOR, GRAIN_HEADER.size))
        if first != (number * self._header.table_grains + entry) * self._header.grain:
            raise ValueError(f"the directory has a table for {number} that belongs to others")

    def _directory_entry(self, number: int) -> int:
        start, window = self._window
        if not start <= number < start + len(window):
            start = number - number % _WINDOW
            count = min(_WINDOW, self._header.tables - start)
            window = unpack_sectors(
                self._read(self._header.directory * SECTOR + 4 * start, 4 * count)
            )
            self._window = (start, window)
        return window[number - start]


def section_at(index: GrainIndex | None, position: int) -> IndexedDisk | None:
    """What the index of a copy says of the disk whose file begins there; None if nothing."""
    for section in index.header.sections if index else ():
        if index and section.position == position:
            return IndexedDisk(index, section)
    return None
