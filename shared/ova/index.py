"""The index of a copy: which compressed grains it holds, and where.

It lets the next copy have the same bytes copied by the NAS.

A file of a header (a digest and JSON, filled up with spaces) and records of 26 bytes in the order
of the disks and their grains, so that two indexes are compared by reading both from front to end:
memory does not grow with the disk. For 500 GB of data it has 200 MB. Whatever such a file holds,
reading it ends in `CopyError` or in an index that was found whole.
"""

import errno
import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final, NamedTuple, Self

from annotated_types import Le

from shared.host import documents
from shared.host.document_fields import FROM_JSON, Count, Sha256
from shared.host.documents import Document
from shared.host.errors import CopyError
from shared.nas.reading import drop_cached, open_file
from shared.ova.grain_columns import GrainColumns
from shared.ova.manifest import MANIFEST_LIMIT

HEADER_BYTES: Final = 64 * 1024
FORMAT: Final = 2
#: Number of the grain, its first sector within the file of the disk, how many it has there, and the
#: digest of its bytes; in each format. The first one did not say how many.
_RECORDS: Final = {1: struct.Struct("<II16s"), 2: struct.Struct("<IIH16s")}
RECORD: Final = _RECORDS[FORMAT]
_RECORDS_AT_ONCE: Final = 4096
#: At its place is something else, which is no index.
_NO_FILE: Final = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})


class IndexRecord(NamedTuple):
    """A grain: its number, the sector of the disk's file where it begins, its bytes' digest.

    `sectors` is how many it has there; 0: an older index, which does not say.
    """

    grain: int
    sector: int
    sectors: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class IndexSection(Document):
    """The records of one disk: `count` of them, from the record number `first` on.

    `place` is where the disk is attached (`SATA-0-0`); `position` is that of its file in the OVA,
    in bytes; `sha256` is that of the records.
    """

    place: str
    position: Count
    first: Count
    count: Count
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class IndexHeader(Document):
    """`generation` counts the copies since the last one that was sent whole.

    The manifest says to which OVA the index belongs.
    """

    generation: Count
    ova_bytes: Count
    manifest_position: Count
    manifest_bytes: Annotated[Count, Le(MANIFEST_LIMIT)]
    manifest_sha256: Sha256
    sections: Annotated[tuple[IndexSection, ...], FROM_JSON]


def grain_digest(data: bytes | memoryview) -> bytes:
    """The digest of a grain as it is in the file."""
    return hashlib.blake2b(data, digest_size=16).digest()


class UnreadIndexError(CopyError):
    """There is an index, which cannot be read now: nobody knows whether it is the copy's own."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"the index cannot be read: {error.strerror}")
        self.error = error


class GrainIndex:
    """An index that was found whole. Close it."""

    def __init__(
        self, file: BinaryIO, header: IndexHeader, digest: str, record: struct.Struct
    ) -> None:
        self._file, self._record = file, record
        self.header = header
        #: Of the header, and so of everything in the index.
        self.digest = digest
        #: Size and SHA-256 of the file.
        self.size, self.sha256 = 0, ""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens and checks an index.

        Raises `CopyError` if there is none, it is damaged, or of another format, and of that
        `UnreadIndexError` if it cannot be read.
        """
        try:
            file = open_file(path)
        except FileNotFoundError:
            raise CopyError("there is no index of it") from None
        except OSError as error:
            raise _unread(error) from None
        try:
            drop_cached(file.fileno())
            data = _read(file, HEADER_BYTES, 0)
            index = cls(file, *_parse(data))
            whole = hashlib.sha256(data)
            for section in index.header.sections:
                found = hashlib.sha256()
                for data in index._pieces(section):
                    found.update(data)
                    whole.update(data)
                if found.hexdigest() != section.sha256:
                    raise CopyError("the index is damaged")
            index.size, index.sha256 = os.fstat(file.fileno()).st_size, whole.hexdigest()
        except BaseException:
            file.close()
            raise
        return index

    @property
    def has_lengths(self) -> bool:
        """Whether it says of each grain how long it is."""
        return self._record is RECORD

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def section(self, place: str) -> IndexSection | None:
        """The records of the disk that was attached there; None if there was none."""
        return next((section for section in self.header.sections if section.place == place), None)

    def records(self, section: IndexSection) -> Iterator[IndexRecord]:
        """The records in the order of the grains."""
        for data in self._pieces(section):
            yield from self._unpack(data)

    def columns(self, section: IndexSection) -> Iterator[GrainColumns]:
        """The same by columns, some thousand at once; lengths are 0 where it does not say them."""
        for data in self._pieces(section):
            numbers, sectors, *more = zip(*self._record.iter_unpack(data), strict=True)
            lengths = more[0] if self.has_lengths else (0,) * len(numbers)
            yield GrainColumns(numbers, sectors, lengths, more[-1])

    def some(self, section: IndexSection, start: int, count: int) -> list[IndexRecord]:
        """So many of its records from the number `start` on, fewer at its end."""
        count = min(count, section.count - start)
        return list(self._unpack(self._piece(section, start, count)))

    def _unpack(self, data: bytes) -> Iterator[IndexRecord]:
        found = self._record.iter_unpack(data)
        if self.has_lengths:
            return map(IndexRecord._make, found)
        return (IndexRecord(grain, sector, 0, digest) for grain, sector, digest in found)

    def _pieces(self, section: IndexSection) -> Iterator[bytes]:
        done = 0
        while done < section.count:
            count = min(_RECORDS_AT_ONCE, section.count - done)
            yield self._piece(section, done, count)
            done += count

    def _piece(self, section: IndexSection, start: int, count: int) -> bytes:
        place = HEADER_BYTES + (section.first + start) * self._record.size
        data = _read(self._file, count * self._record.size, place)
        if len(data) != count * self._record.size:
            raise CopyError("the index is cut off")
        return data


def index_digest(path: Path) -> str:
    """What `GrainIndex.digest` is of an index, without a look at the rest.

    Raises `CopyError` if it cannot be read, or is none.
    """
    try:
        with open_file(path) as file:
            data = _read(file, HEADER_BYTES, 0)
    except OSError as error:
        raise CopyError(f"the index cannot be read: {error.strerror}") from None
    return _parse(data)[1]


def seal(text: bytes) -> bytes:
    """The text behind its own digest."""
    return hashlib.sha256(text).hexdigest().encode() + b" " + text


def _read(file: BinaryIO, length: int, position: int) -> bytes:
    try:
        return os.pread(file.fileno(), length, position)
    except OSError as error:
        raise _unread(error) from None
    except OverflowError as error:
        raise CopyError(f"the index cannot be read: {error}") from None


def _unread(error: OSError) -> CopyError:
    if error.errno in _NO_FILE:
        return CopyError(f"the index cannot be read: {error.strerror}")
    return UnreadIndexError(error)


def _parse(data: bytes) -> tuple[IndexHeader, str, struct.Struct]:
    """The header, its digest, and how records are laid out."""
    sealed = data.rstrip(b" ")
    text = sealed.partition(b" ")[2]
    try:
        if seal(text) != sealed:
            raise ValueError("it is damaged")
        values = documents.load(text)
        if not isinstance(values, dict) or values.get("format") not in _RECORDS:
            raise ValueError("another format")
        header = IndexHeader.from_json(values)
        first = 0
        for section in header.sections:
            if section.first != first or section.position > header.ova_bytes:
                raise ValueError("its sections do not follow each other in the copy")
            first += section.count
    except ValueError as error:
        raise CopyError(f"the index has no header that is understood: {error}") from None
    return header, hashlib.sha256(data).hexdigest(), _RECORDS[values["format"]]
