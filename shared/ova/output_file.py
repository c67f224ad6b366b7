"""The new file into which an OVA is written: bytes go to the NAS in threads of their own.

They are flushed while more are made, so that the end does not wait long and memory does not fill
with pages that wait for a NAS.
"""

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from shared.host.errors import CopyError, NasError
from shared.host.rate_limit import UNLIMITED, Pace
from shared.host.stages import Stage

#: How long threads may take to end. One that writes to a NAS that is gone cannot be ended at all.
END_SECONDS: Final = 10.0
#: A range that is copied takes the NAS about 0.1 s at this length, and cannot be cancelled.
LONGEST_RANGE: Final = 64 * 2**20

#: Pieces of about a megabyte that may wait to be written.
_QUEUE: Final = 12
#: What file systems that share blocks between files share at least.
_BLOCK: Final = 4096
#: Flushed after so many bytes, or after a second's worth of a limit: what the system has gathered
#: it sends at once.
_FLUSH_BYTES: Final = 64 * 2**20

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

fdatasync: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)  # macOS has none


class CopiedRange(NamedTuple):
    """Bytes that the open file `source` holds already: the file system copies them.

    Perhaps the server alone does.
    """

    source: int
    source_position: int
    position: int
    length: int


@dataclass(frozen=True, slots=True)
class _Write:
    data: bytes | memoryview
    position: int


class OutputFile:
    """A file that is written from several threads' work, in the order of the calls.

    All methods raise `CancelledError` soon after `cancelled` is set, and `NasError` if writing
    fails; `CopyError` if what another file should hold cannot be copied from it, though it might be
    written. Whatever happens, call `close`. A crash leaves an incomplete file.
    """

    def __init__(
        self,
        path: Path,
        *,
        cancelled: threading.Event,
        flush: Callable[[int], None],
        end_seconds: float,
        pace: Pace = UNLIMITED,
    ) -> None:
        """Creates `path`, which must not exist. What is written goes no faster than `pace`."""
        self._ending = threading.Event()
        self._pace = pace.until(self._ending.is_set)
        self._flush_bytes = min(pace.bytes_per_second or _FLUSH_BYTES, _FLUSH_BYTES)
        self._path = path
        self._flush = flush
        self._end_seconds = end_seconds
        try:
            self._descriptor = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise self._failed(error) from None
        self._flushing: Stage[None] = Stage(
            name="flush", handle=self._sync, capacity=1, cancelled=cancelled
        )
        self._writing: Stage[_Write | CopiedRange] = Stage(
            name="write", handle=self._store, capacity=_QUEUE, cancelled=cancelled
        )
        self._unflushed = 0
        #: How many bytes the storage has taken.
        self.stored = 0
        #: How many of them it copied by itself from another file.
        self.copied = 0

    def write(self, data: bytes | memoryview, position: int) -> None:
        """Has `data` written at `position`."""
        self._writing.put(_Write(data, position))

    def copy(self, copied: CopiedRange) -> None:
        """Has a range copied from another file, which must stay open until this one is closed."""
        self._writing.put(copied)

    def finish(self) -> None:
        """Waits until the storage has everything."""
        self._writing.finish()
        self._flushing.put(None)
        self._flushing.finish()

    def close(self) -> bool:
        """Ends the threads and closes the file. What waits for its turn to be sent does not wait.

        False if the storage hangs: then the file stays open for the life of this process.
        """
        self._ending.set()
        ended = [stage.end(self._end_seconds) for stage in (self._writing, self._flushing)]
        if not all(ended):
            # its number must not be given to another file while a thread may still write to it
            return False
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
        return True

    def discard(self) -> None:
        """Closes the file and deletes it.

        A storage that hangs keeps it: whoever cleans up partial files removes it later.
        """
        with contextlib.suppress(OSError):
            if self.close():
                os.unlink(self._path)

    def _store(self, item: _Write | CopiedRange) -> None:
        try:
            length = self._write_at(item) if isinstance(item, _Write) else self._copy_range(item)
        except OSError as error:
            if isinstance(item, CopiedRange) and error.errno not in _NO_ROOM:
                raise CopyError(
                    f"the NAS does not copy from the copy before: {error.strerror or error}"
                ) from error
            raise self._failed(error) from error
        self.stored += length
        self._unflushed += length
        if self._unflushed >= self._flush_bytes:
            self._unflushed = 0
            self._flushing.put(None)

    def _write_at(self, item: _Write) -> int:
        view, position = memoryview(item.data), item.position
        self._pace.wait(len(view))
        while view:
            count = os.pwrite(self._descriptor, view, position)
            view, position = view[count:], position + count
        return len(item.data)

    def _copy_range(self, item: CopiedRange) -> int:
        done = 0
        while done < item.length:
            source, target = item.source_position + done, item.position + done
            length = min(item.length - done, _to_next_block(source, target))
            count = _copy_file_range(item.source, self._descriptor, length, source, target)
            if not count:
                raise OSError(None, "the previous copy has become shorter")
            done += count
        self.copied += item.length
        return item.length

    def _sync(self, _: None) -> None:
        try:
            self._flush(self._descriptor)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> NasError:
        return NasError(f"cannot write {self._path}: {error.strerror or error}")


def _copy_file_range(
    source: int, target: int, length: int, source_position: int, target_position: int
) -> int:
    """Has the file system copy; returns how many bytes it copied.

    Only Linux can, and only there a copy is planned so (`shared.nas.mount`).
    """
    if sys.platform == "linux":
        return os.copy_file_range(source, target, length, source_position, target_position)
    raise OSError(errno.ENOSYS, "this system cannot copy between files")


def _to_next_block(source: int, target: int) -> int:
    """How much to copy at once.

    A file system shares blocks only if a copy begins at one, so what is before goes by itself.
    """
    before = -target % _BLOCK
    return before if before and source % _BLOCK == target % _BLOCK else LONGEST_RANGE
