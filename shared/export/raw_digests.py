"""What the grains of a VM's disks were when its last copy was made, by digests, on this host.

Where images cannot be cloned, all of a disk is read. Of what has the digest that it had then, the
copy before has the grain, which need not be compressed, sent, and read back. Each grain is judged
by its bytes now: of a file that is old, damaged, or of another time of this host, nothing worse
comes than that more is sent. Which copy has the grains of which these are the digests, the file
says: by its stamp and by the digest of its index.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Self

from annotated_types import Le

from shared.frozen.digest_files import path_of
from shared.host import documents
from shared.host.document_fields import FROM_JSON, Count, Sha256
from shared.host.documents import Document
from shared.host.errors import CopyError
from shared.host.notes import flush_directory
from shared.ova.grain_columns import GrainColumns
from shared.ova.index import index_digest

log: Final = logging.getLogger(__name__)

DIGEST_BYTES: Final = 16
_HEADER_BYTES: Final = 1 << 16
_RECORD: Final = struct.Struct(f"<I{DIGEST_BYTES}s")
_AT_ONCE: Final = 4096
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_MOST: Final = 1 << 40
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class _Section(Document):
    """So many records are of the disk that was attached at `place`."""

    place: str
    count: Annotated[Count, Le(_MOST)]


@dataclass(frozen=True, slots=True)
class _Header(Document):
    """`key`, 32 bytes by chance, goes into each digest: no guest can write two grains of one."""

    stamp: str
    index: Sha256
    key: Sha256
    disks: Annotated[tuple[_Section, ...], FROM_JSON]


def record(number: int, digest: bytes) -> bytes:
    """A grain as it stands in the file."""
    return _RECORD.pack(number, digest)


class GrainHash:
    """Makes the digests of grains."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._begun = hashlib.sha256(key)

    def digest(self, grain: memoryview) -> bytes:
        """That of a grain's bytes. In any thread."""
        found = self._begun.copy()
        found.update(grain)
        return found.digest()[:DIGEST_BYTES]


class LastDigests:
    """Those of the last copy, open."""

    def __init__(self, file: BinaryIO, header: _Header) -> None:
        self._file, self._header = file, header
        self.stamp, self.index = header.stamp, header.index
        self.hash = GrainHash(bytes.fromhex(header.key))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises OSError, and `ValueError` for what is not understood. Close it."""
        descriptor = os.open(path, _READ)
        try:
            file = os.fdopen(descriptor, "rb")
        except OSError:  # it is a directory
            os.close(descriptor)
            raise
        try:
            text = os.pread(file.fileno(), _HEADER_BYTES, 0).rstrip(b"\0")
            return cls(file, _Header.from_json(documents.load(text)))
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def grains(self, place: str) -> Iterator[GrainColumns]:
        """Numbers and digests of the disk that was attached there, in its order."""
        first = 0
        for section in self._header.disks:
            if section.place == place:
                return self._columns(first, section.count)
            first += section.count
        return iter(())

    def _columns(self, first: int, count: int) -> Iterator[GrainColumns]:
        for done in range(0, count, _AT_ONCE):
            size = _RECORD.size * min(_AT_ONCE, count - done)
            place = _HEADER_BYTES + (first + done) * _RECORD.size
            try:
                data = os.pread(self._file.fileno(), size, place)
            except OSError:
                data = b""
            if len(data) != size:
                return  # what is cut off, or cannot be read, is not known
            numbers, digests = zip(*_RECORD.iter_unpack(data), strict=True)
            yield GrainColumns(numbers, digests=digests)


class RawDigests:
    """Those of one VM: of its last copy, and of the one that is made now under one claim."""

    def __init__(self, state_directory: Path, repository: str, uuid: str, claim: int) -> None:
        self._path = path_of(state_directory, repository, uuid)
        self._new = self._path.with_name(f"{self._path.name}.{claim}")
        self._file: BinaryIO | None = None
        self._sections: list[tuple[str, int]] = []
        self._hash = GrainHash(secrets.token_bytes(_KEY_BYTES))
        self._problem = ""

    def last(self) -> LastDigests | None:
        """Those of the last copy, if they are known. Close it."""
        try:
            return LastDigests.open(self._path)
        except (OSError, ValueError):
            return None

    def begin(self, hashing: GrainHash | None) -> GrainHash:
        """Those of a new copy follow, made like those of the last one if there are any.

        What cannot be written is done without: the next copy is compressed as a whole.
        """
        self.discard()
        self._hash, self._problem, self._sections = hashing or self._hash, "", []
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._new, flags, 0o600), "wb", buffering=1 << 18)
            self._file.write(bytes(_HEADER_BYTES))
        except OSError as error:
            self._fail(error)
        return self._hash

    def begin_disk(self, place: str) -> None:
        """The grains of another disk follow."""
        self._sections.append((place, 0))

    def add(self, grains: GrainColumns) -> None:
        """The next grains that are not zeros: their numbers and digests."""
        if self._file is None or not self._sections:
            return
        place, count = self._sections[-1]
        self._sections[-1] = (place, count + len(grains.numbers))
        pairs = zip(grains.numbers, grains.digests, strict=True)
        try:
            self._file.write(b"".join([record(*pair) for pair in pairs]))
        except OSError as error:
            self._fail(error)

    @property
    def begun(self) -> bool:
        """Whether those of a copy were noted, and can be kept."""
        return self._file is not None

    def keep(self, stamp: str, index: Path) -> None:
        """They are those of the copy `stamp` with that `index`. Durable.

        A crash leaves those of before, or these. What cannot be kept is done without.
        """
        if self._file is None:
            return None
        try:
            digest = index_digest(index)
        except CopyError as error:
            log.info("what is on its disks is not kept for the next copy: %s", error)
            return self.discard()
        sections = tuple(_Section(place, count) for place, count in self._sections)
        header = _Header(stamp, digest, self._hash.key.hex(), sections)
        text = json.dumps(asdict(header)).encode()
        try:
            if len(text) > _HEADER_BYTES:
                raise OSError(f"it has {len(sections)} disks")
            self._file.flush()
            os.pwrite(self._file.fileno(), text, 0)
            os.fsync(self._file.fileno())
            os.replace(self._new, self._path)
            flush_directory(self._path.parent)
            self._file.close()
            self._file = None
        except OSError as error:
            self._fail(error)

    def discard(self) -> None:
        """Removes those that are not kept. May be repeated.

        A process that is killed leaves them.
        """
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        with contextlib.suppress(OSError):
            self._new.unlink(missing_ok=True)

    def _fail(self, error: OSError) -> None:
        log.info("what is on its disks is not noted for the next copy: %s", error)
        self.discard()
