"""The index of a copy: which compressed grains it holds, and where.

It lets the next copy have the same bytes copied by the NAS.

A file of a header (a digest and JSON, filled up with spaces) and records of 24 bytes in the order
of the disks and their grains, so that two indexes are compared by reading both from front to end:
memory does not grow with the disk. For 500 GB of data it has 190 MB. Whatever such a file holds,
reading it ends in `CopyError` or in an index that was found whole.
"""

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Self

from annotated_types import Le

from shared.host import documents
from shared.host.document_fields import FROM_JSON, Count, Sha256
from shared.host.documents import Document
from shared.host.errors import CopyError, NasError
from shared.nas.reading import open_file
from shared.ova.manifest import MANIFEST_LIMIT
from shared.ova.writing import WrittenMember

_HEADER_BYTES: Final = 64 * 1024
_FORMAT: Final = 1
#: Number of the grain, its sector within the file of the disk, digest of its bytes there.
_RECORD: Final = struct.Struct("<II16s")
_RECORDS_AT_ONCE: Final = 4096


@dataclass(frozen=True, slots=True)
class IndexRecord:
    """A grain: its number, the sector of the disk's file where it begins, its bytes' digest."""

    grain: int
    sector: int
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


class IndexWriter:
    """Writes the index of a copy: `begin` for each disk, `add` for each grain, `finish`.

    An index without `finish` is not one.

    All raise `NasError` if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        """Creates `path`, which must not exist. Raises OSError."""
        self._path = path
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=1 << 20)
        self._file.write(bytes(_HEADER_BYTES))
        self._sections: list[IndexSection] = []
        self._sha256 = hashlib.sha256()
        self._begun: tuple[str, int, int] | None = None
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # what was not written by `finish` is worth nothing
            self._file.close()

    def begin(self, place: str, position: int) -> None:
        """The grains of another disk follow."""
        self._end_section()
        self._begun = (place, position, self._count)
        self._sha256 = hashlib.sha256()

    def add(self, record: IndexRecord) -> None:
        """The next grain."""
        data = _RECORD.pack(record.grain, record.sector, record.digest)
        self._sha256.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise self._failed(error) from None
        self._count += 1

    def finish(self, generation: int, members: Sequence[WrittenMember], ova_bytes: int) -> None:
        """Writes the header. `members` of the finished OVA, its manifest last."""
        self._end_section()
        manifest = members[-1]
        header = IndexHeader(
            generation,
            ova_bytes,
            manifest.position,
            manifest.size,
            manifest.sha256,
            tuple(self._sections),
        )
        text = _seal(json.dumps({"format": _FORMAT, **asdict(header)}).encode())
        if len(text) > _HEADER_BYTES:
            raise CopyError("the VM has too many disks for an index")
        try:
            self._file.flush()
            os.pwrite(self._file.fileno(), text.ljust(_HEADER_BYTES), 0)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> NasError:
        return NasError(f"cannot write {self._path}: {error.strerror}")

    def _end_section(self) -> None:
        if self._begun:
            place, position, first = self._begun
            self._sections.append(
                IndexSection(place, position, first, self._count - first, self._sha256.hexdigest())
            )
            self._begun = None


class GrainIndex:
    """An index that was found whole. Close it."""

    def __init__(self, file: BinaryIO, header: IndexHeader, digest: str) -> None:
        self._file = file
        self.header = header
        #: Of the header, and so of everything in the index.
        self.digest = digest

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens and checks an index.

        Raises `CopyError` if it cannot be read, is damaged, or is of another format.
        """
        try:
            file = open_file(path)
        except OSError as error:
            raise CopyError(f"the index cannot be read: {error.strerror}") from None
        try:
            data = _read(file, _HEADER_BYTES, 0)
            index = cls(file, _parse(data), hashlib.sha256(data).hexdigest())
            for section in index.header.sections:
                found = hashlib.sha256()
                for data in index._pieces(section):
                    found.update(data)
                if found.hexdigest() != section.sha256:
                    raise CopyError("the index is damaged")
        except BaseException:
            file.close()
            raise
        return index

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def section(self, place: str) -> IndexSection | None:
        """The records of the disk that was attached there; None if there was none."""
        return next((section for section in self.header.sections if section.place == place), None)

    def records(self, section: IndexSection) -> Iterator[IndexRecord]:
        """The records in the order of the grains."""
        for data in self._pieces(section):
            for fields in _RECORD.iter_unpack(data):
                yield IndexRecord(*fields)

    def _pieces(self, section: IndexSection) -> Iterator[bytes]:
        done = 0
        while done < section.count:
            count = min(_RECORDS_AT_ONCE, section.count - done)
            start = _HEADER_BYTES + (section.first + done) * _RECORD.size
            data = _read(self._file, count * _RECORD.size, start)
            if len(data) != count * _RECORD.size:
                raise CopyError("the index is cut off")
            yield data
            done += count


def index_digest(path: Path) -> str:
    """What `GrainIndex.digest` is of an index, without a look at the rest.

    Raises `CopyError` if it cannot be read, or is none.
    """
    try:
        with open_file(path) as file:
            data = _read(file, _HEADER_BYTES, 0)
    except OSError as error:
        raise CopyError(f"the index cannot be read: {error.strerror}") from None
    _parse(data)
    return hashlib.sha256(data).hexdigest()


def _seal(text: bytes) -> bytes:
    """The text behind its own digest."""
    return hashlib.sha256(text).hexdigest().encode() + b" " + text


def _read(file: BinaryIO, length: int, position: int) -> bytes:
    try:
        return os.pread(file.fileno(), length, position)
    except (OSError, OverflowError) as error:
        raise CopyError(f"the index cannot be read: {error}") from None


def _parse(data: bytes) -> IndexHeader:
    sealed = data.rstrip(b" ")
    text = sealed.partition(b" ")[2]
    try:
        if _seal(text) != sealed:
            raise ValueError("it is damaged")
        values = documents.load(text)
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise ValueError("another format")
        header = IndexHeader.from_json(values)
        first = 0
        for section in header.sections:
            if section.first != first or section.position > header.ova_bytes:
                raise ValueError("its sections do not follow each other in the copy")
            first += section.count
    except ValueError as error:
        raise CopyError(f"the index has no header that is understood: {error}") from None
    return header
