"""Writes the index of a copy while the copy is written."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

from shared.host.errors import CopyError, NasError
from shared.ova.grain_columns import GrainColumns
from shared.ova.index import (
    FORMAT,
    HEADER_BYTES,
    RECORD,
    IndexHeader,
    IndexSection,
    seal,
)
from shared.ova.ova_writing import WrittenMember


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
        self._file.write(bytes(HEADER_BYTES))
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

    def add(self, grains: GrainColumns) -> None:
        """The next grains, with their sectors in the file of the disk."""
        data = b"".join([RECORD.pack(*grain) for grain in zip(*grains, strict=True)])
        self._sha256.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise self._failed(error) from None
        self._count += len(grains.numbers)

    def finish(self, generation: int, members: Sequence[WrittenMember], ova_bytes: int) -> str:
        """Writes the header, and returns its digest, which is `GrainIndex.digest`.

        `members` of the finished OVA, its manifest last.
        """
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
        text = seal(json.dumps({"format": FORMAT, **asdict(header)}).encode())
        if len(text) > HEADER_BYTES:
            raise CopyError("the VM has too many disks for an index")
        try:
            self._file.flush()
            data = text.ljust(HEADER_BYTES)
            os.pwrite(self._file.fileno(), data, 0)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from None
        return hashlib.sha256(data).hexdigest()

    def _failed(self, error: OSError) -> NasError:
        return NasError(f"cannot write {self._path}: {error.strerror}")

    def _end_section(self) -> None:
        if self._begun:
            place, position, first = self._begun
            self._sections.append(
                IndexSection(place, position, first, self._count - first, self._sha256.hexdigest())
            )
            self._begun = None
