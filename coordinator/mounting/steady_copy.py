"""A copy that stays open for long: when the NAS was away, it is opened anew by the next read."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from shared.host.errors import NasError
from shared.nas.nas_errors import reported
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
        #: How many read each reader just now. One that is exchanged is closed by the last of them:
        #: closed before, what they read on would count as damaged.
        self._users = Counter[CopyReader]()
        self._reader: CopyReader | None
        self._reader, self._shape = self._opened()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop(self._reader)

    def read(self, disk: int, offset: int, length: int) -> bytes:
        """Bytes of the disk with this number, from 1 on, like `DiskReader.read`.

        Raises `GoneError`, `CopyError`, `NasError`.
        """
        with self._lock:
            reader = self._current()
            self._users[reader] += 1
        try:
            return reader.disks[disk - 1].read(offset, length)
        except NasError:
            self._drop(reader)
            raise
        finally:
            with self._lock:
                self._users[reader] -= 1
                self._close_unused(reader)

    def reader(self) -> CopyReader:
        """The copy, open until a read fails. Raises `GoneError`, `CopyError`, `NasError`."""
        with self._lock:
            return self._current()

    def _current(self) -> CopyReader:
        if self._reader is None:
            reader, shape = self._opened()
            if shape != self._shape:
                reader.close()
                raise GoneError(f"{self.ova} is another file than before")
            self._reader = reader
        return self._reader

    def _opened(self) -> tuple[CopyReader, tuple[object, ...]]:
        reader = self.opener(self.ova)
        try:
            return reader, _shape(reader)
        except NasError:
            reader.close()
            raise

    def _drop(self, reader: CopyReader | None) -> None:
        with self._lock:
            if reader is not None and self._reader is reader:
                self._reader = None
                self._close_unused(reader)

    def _close_unused(self, reader: CopyReader) -> None:
        if not self._users[reader]:
            del self._users[reader]
            if self._reader is not reader:
                reader.close()


def _shape(reader: CopyReader) -> tuple[object, ...]:
    """What tells a copy from another at the same place. Raises `NasError`."""
    with reported(f"look at {reader.path.name}"):
        looked = reader.path.stat()
    index = reader.index.digest if reader.index else ""
    disks = ((disk.name, disk.size) for disk in reader.disks)
    return (looked.st_size, looked.st_mtime_ns, index, *disks)
