"""Reads any part of one disk inside an `.ova` (see `disk_reader`), without unpacking the rest.

What cannot be read, or is not what it should be, is an error, never zeros.
"""

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO, Final

from shared.host.errors import CopyError, VmBackupError
from shared.nas.nas_errors import nas_error
from shared.ova.block_errors import DamagedBlockError, UnreadBlockError
from shared.ova.compression import best_inflate
from shared.ova.grain_data import has_digest, laid_out, unpack
from shared.ova.grain_tables import TABLES_LIMIT, GrainPlace, GrainTables, section_at
from shared.ova.index import GrainIndex, UnreadIndexError, grain_digest
from shared.ova.tar import TarMember
from shared.ova.vmdk import (
    DIRECTORY_AT_END,
    DIRECTORY_FIELD,
    SECTOR,
    MarkerKind,
    VmdkHeader,
    parse_marker,
)

#: So much of the file is read at once, where grains that are wanted are neighbours there.
_READ_AT_ONCE: Final = 1 << 20
#: Inflated grains of which only a part was wanted: a file system reads on in the same one.
_HELD_BYTES: Final = 4 << 20
_DESCRIPTOR_LIMIT: Final = 64 * 1024
_EXTENT: Final = re.compile(r"^(?:RDONLY|RW|NOACCESS) +([0-9]{1,15}) ", re.MULTILINE)


class DiskReader:
    """One disk inside an `.ova`: `size` bytes, as the guest sees them. Safe in any thread.

    Its file is the `member` of the `.ova`.
    """

    #: Why nothing of it can be read; empty: it can.
    problem = ""

    def __init__(self, file: BinaryIO, member: TarMember, index: GrainIndex | None) -> None:
        """Reads the header. Raises `CopyError`, `NasError`."""
        #: As the `.ova` has it: it may hold anything, and is no path.
        self.name, self.member, self._file = member.name, member, file
        try:
            self._header = self._read_header()
            self.size = self._read_size()
        except ValueError as error:
            raise CopyError(f"the disk {self.name!r} cannot be read: {error}") from None
        except OSError as error:
            raise nas_error(error, f"read the disk {self.name!r}") from error
        self._grain_bytes = self._header.grain * SECTOR
        found = section_at(index, member.position)
        #: Its records in the index of the copy, if there are any.
        self.section = found.section if found else None
        #: Whether each block is compared with its digest in the index of the copy.
        self.indexed = found is not None
        self._tables = GrainTables(self._header, member.size, self._read_file, found)
        self._inflate = best_inflate()
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        """The bytes of the disk from `offset` on; fewer at its end, none behind it.

        Raises `DamagedBlockError` or `UnreadBlockError`, both with the errno EIO; ValueError for
        negative numbers.
        """
        if offset < 0 or length < 0:
            raise ValueError("a part of a disk has no negative place or length")
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        first, last = offset // self._grain_bytes, (end - 1) // self._grain_bytes
        before = offset - first * self._grain_bytes
        if first == last:
            return self._part(first)[before : before + end - offset]
        pieces = list(self._whole(first, last + 1))
        pieces[0] = pieces[0][before:]
        pieces[-1] = pieces[-1][: end - last * self._grain_bytes]
        return b"".join(pieces)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Offset and length of each range that is not left out as zeros, in the order of the disk.

        What cannot be read is among them. Raises like `read`, if a table cannot be read.
        """
        start = end = 0
        held = self._tables.held(-(-self.size // self._grain_bytes))
        while True:
            try:
                grain = next(held, None)
            except (OSError, ValueError, CopyError) as error:
                raise self._failed(error, "its tables") from error
            if grain is not None and grain * self._grain_bytes == end:
                end += self._grain_bytes
                continue
            if end > start:
                yield start, min(end, self.size) - start
            if grain is None:
                return
            start, end = grain * self._grain_bytes, (grain + 1) * self._grain_bytes

    def check_tables(self) -> None:
        """That they can be believed (see `GrainTables.check`). Raises like `read`."""
        try:
            self._tables.check()
        except (OSError, ValueError, CopyError) as error:
            raise self._failed(error, "its tables") from error

    def _part(self, grain: int) -> bytes:
        with self._lock:
            if grain in self._held:
                self._held.move_to_end(grain)
                return self._held[grain]
        (data,) = self._whole(grain, grain + 1)
        with self._lock:
            self._held[grain] = data
            while len(self._held) > max(1, _HELD_BYTES // self._grain_bytes):
                self._held.popitem(last=False)
        return data

    def _whole(self, start: int, end: int) -> Iterator[bytes]:
        """The grains from the number `start` up to `end`; neighbours are read together."""
        together: list[tuple[int, GrainPlace]] = []
        for grain in range(start, end):
            place = self._place(grain)
            if place is not None and (not together or _follows(together, place)):
                together.append((grain, place))
                continue
            yield from self._inflated(together)
            together = [(grain, place)] if place is not None else []
            if place is None:
                yield bytes(self._grain_bytes)
        yield from self._inflated(together)

    def _place(self, grain: int) -> GrainPlace | None:
        try:
            place = self._tables.place(grain)
        except (OSError, ValueError, CopyError) as error:
            raise self._failed(error, f"where block {grain} is") from error
        if place is not None and place.problem:
            raise self._damaged(grain, place.problem)
        return place

    def _inflated(self, together: list[tuple[int, GrainPlace]]) -> Iterator[bytes]:
        if not together:
            return
        begin = together[0][1].start
        try:
            data = self._read_file(begin, together[-1][1].limit - begin)
        except (OSError, ValueError) as error:
            raise self._failed(error, f"block {together[0][0]}") from error
        for grain, place in together:
            own = data[place.start - begin : place.limit - begin]
            piece = laid_out(own, grain, self._header.grain)
            if not piece:
                raise self._damaged(grain, "something else is at its place")
            if place.digest is not None and not self._has_digest(own, len(piece), place):
                raise self._damaged(grain, "it has not the digest that the index of the copy says")
            try:
                yield unpack(piece, self._grain_bytes, self._inflate)
            except ValueError as error:
                raise self._damaged(grain, str(error)) from None

    def _has_digest(self, own: bytes, length: int, place: GrainPlace) -> bool:
        """Whether these bytes, of which the first `length` are a grain, are what the index says."""
        if place.sectors:
            return grain_digest(own[: place.sectors * SECTOR]) == place.digest
        position = self.member.position + place.start
        return place.digest is not None and has_digest(own, length, position, place.digest)

    def _read_file(self, position: int, length: int) -> bytes:
        """Bytes of the disk's file. Raises OSError, ValueError if they are not in it."""
        if position < 0 or length < 0 or position + length > self.member.size:
            raise ValueError("it leads out of the disk's file")
        data = b""
        while len(data) < length:
            start = self.member.position + position + len(data)
            more = os.pread(self._file.fileno(), length - len(data), start)
            if not more:
                raise ValueError("the copy was cut off while it was read")
            data = data + more if data else more
        return data

    def _read_header(self) -> VmdkHeader:
        if self.member.size < 3 * SECTOR or self.member.size % SECTOR:
            raise ValueError("its length is none of a stream-optimised disk")
        first = self._read_file(0, SECTOR)
        footer = self._read_file(self.member.size - 2 * SECTOR, 2 * SECTOR)
        header = VmdkHeader.parse(first)
        start, end = DIRECTORY_FIELD.start, DIRECTORY_FIELD.stop
        if first[:start] != footer[:start] or parse_marker(footer[SECTOR:]) != (MarkerKind.END, 0):
            raise ValueError("it has no footer")
        directory = int.from_bytes(footer[start:end], "little")
        if header.tables > TABLES_LIMIT:
            raise ValueError("it is impossibly large")
        if directory == DIRECTORY_AT_END or (
            directory * SECTOR + 4 * header.tables > self.member.size
        ):
            raise ValueError("its directory is outside of its file")
        return replace(header, directory=directory)

    def _read_size(self) -> int:
        """What the descriptor says: the header has whole grains only."""
        whole = self._header.capacity * SECTOR
        length = min(self._header.descriptor_sectors * SECTOR, _DESCRIPTOR_LIMIT)
        length = max(0, min(length, self.member.size - SECTOR))
        text = self._read_file(SECTOR, length).partition(b"\0")[0].decode("utf-8", "replace")
        extents = _EXTENT.findall(text)
        if not extents:
            return whole
        size = int(extents[0]) * SECTOR
        if len(extents) > 1 or not whole - self._header.grain * SECTOR < size <= whole:
            raise ValueError("its descriptor and its header contradict each other")
        return size

    def _damaged(self, grain: int, why: str) -> DamagedBlockError:
        place = grain * self._grain_bytes
        return DamagedBlockError(f"the disk {self.name!r} is damaged at byte {place}: {why}")

    def _failed(self, error: Exception, what: str) -> VmBackupError:
        error = error.error if isinstance(error, UnreadIndexError) else error
        if isinstance(error, OSError):
            return UnreadBlockError(error, f"{what} of the disk {self.name!r}")
        return DamagedBlockError(f"the disk {self.name!r} is damaged: {what}: {error}")


def _follows(together: list[tuple[int, GrainPlace]], place: GrainPlace) -> bool:
    """Whether it is right behind these, and all are still few enough to be read at once."""
    return (
        place.start == together[-1][1].limit and place.limit - together[0][1].start <= _READ_AT_ONCE
    )
