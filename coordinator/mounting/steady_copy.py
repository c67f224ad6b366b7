"""A copy that stays open for long: when the NAS was away, it is opened anew by the next read."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from shared.host.errors import NasError
from shared.ova.disk_reader import CopyReader, open_copy


class GoneError(Exception):
    """The copy is not there any more, or another one is at its place."""


@dataclass
class SteadyCopy:
    """The copy at `ova`. Safe in any thread. If it is another one later, reads fail."""

    ova: Path
    opener: Callable[[Path], CopyReader] = open_copy

    def __post_init__(self) -> None:
        """Raises `CopyError`, `NasError`."""
        self._lock = threading.Lock()
        self._reader: CopyReader | None = self.opener(self.ova)
        self._shape = _shape(self._reader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop(self._reader)

    def read(self, disk: int, offset: int, length: int) -> bytes:
        """Bytes of the disk with this number, from 1 on, like `DiskReader.read`.

        Raises `GoneError`, `CopyError`, `NasError`.
        """
        reader = self.reader()
        try:
            return reader.disks[disk - 1].read(offset, length)
        except NasError:
            self._drop(reader)
            raise

    def reader(self) -> CopyReader:
        """The copy, open. Raises `GoneError`, `CopyError`, `NasError`."""
        with self._lock:
            if self._reader is None:
                reader = self.opener(self.ova)
                if _shape(reader) != self._shape:
                    reader.close()
                    raise GoneError(f"{self.ova} is another file than before")
                self._reader = reader
            return self._reader

    def _drop(self, reader: CopyReader | None) -> None:
        with self._lock:
            if reader is not None and self._reader is reader:
                self._reader = None
                reader.close()


def _shape(reader: CopyReader) -> tuple[object, ...]:
    """What tells a copy from another at the same place."""
    looked = reader.path.stat()
    index = reader.index.digest if reader.index else ""
    disks = ((disk.name, disk.size) for disk in reader.disks)
    return (looked.st_size, looked.st_mtime_ns, index, *disks)
