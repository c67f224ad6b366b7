"""A disk that can be read at once: what is not local yet is fetched from the copy, and kept.

The file has a temporary name. It has its whole length and its map from the beginning, and holes
where blocks are missing; beside it are the digests of those that are there. So only a block that
has the digest which it had when it came from the copy counts as local, whatever a crash or a loss
of power has left. What cannot be read, or is not what it should be, is an error, never zeros. What
the disk did not take when it was flushed is fetched anew.
"""

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from coordinator.booting.laying_out import positions
from shared.copies.space_needed import human
from shared.host.errors import CopyError
from shared.nas.nas_errors import FULL
from shared.ova.vdi_header import HEADER_BYTES, parse_header
from shared.ova.vdi_writing import BLOCK, TargetError

#: Reads so many bytes of the disk from a position on. Raises what a reader of copies raises.
Fetch = Callable[[int, int], bytes]

_DIGEST_BYTES: Final = 16
_NONE: Final = bytes(_DIGEST_BYTES)
#: So much of the file system stays free for what the guest itself writes.
SPARE: Final = 1 << 30


class NoRoomError(TargetError):
    """There is no room for a block on this host. The guest has its bytes all the same."""

    def __init__(self, error: OSError, path: Path) -> None:
        super().__init__(error, path)
        self.message = f"no room: {self.message}"
        self.hint = "make room there: it goes on by itself"


def digests_of(path: Path) -> Path:
    """Where the digests of the blocks are that are in a file."""
    return path.with_name(f"{path.name}.digests")


class ServedDisk:
    """A file that `lay_out` has made, with what is missing in it. Safe in any thread. Close it.

    `size` is that of the file, `blocks` how many blocks it has. Nothing is kept that would leave
    less than `spare` bytes of the file system free.
    """

    def __init__(self, path: Path, fetch: Fetch, *, spare: int = SPARE, locks: int = 64) -> None:
        """Opens the file. Raises `TargetError`, `DiskImageError` if it is none of `lay_out`."""
        self.path, self._fetch, self._spare = path, fetch, spare
        self._file = self._digests = -1
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            header = parse_header(os.pread(self._file, HEADER_BYTES, 0))
            data = os.pread(self._file, 4 * header.blocks, header.map_offset)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._digests = os.open(digests_of(path), flags, 0o600)
        except OSError as error:
            self.close()
            raise TargetError(error, path) from None
        self._disk_size, self._data, self.blocks = header.size, header.data_offset, header.allocated
        self.size = self._data + self.blocks * BLOCK
        self._positions = positions(data, self.blocks)
        self._local = bytearray(self.blocks)
        self._locks = [threading.Lock() for _ in range(locks)]
        self._forgotten = 0  # how often; changes only while all locks are held
        self._noted = True  # whether the digests tell what is in the file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files. May be called again."""
        descriptors = self._file, self._digests
        self._file = self._digests = -1  # before: their numbers may soon be those of other files
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes of the file from `offset` on, fewer at its end.

        Raises what fetching raises, and OSError.
        """
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        pieces = (
            [self._exactly(offset, min(end, self._data) - offset)] if offset < self._data else []
        )
        start = max(offset, self._data) - self._data
        while start < end - self._data:
            number, before = divmod(start, BLOCK)
            wanted = min(BLOCK - before, end - self._data - start)
            pieces.append(self._part(number, before, wanted))
            start += wanted
        return b"".join(pieces)

    def is_local(self, number: int) -> bool:
        """Whether a block was found or made local."""
        return bool(self._local[number])

    @property
    def filled(self) -> int:
        """How many blocks are local."""
        return self._local.count(1)

    def make_local(self, number: int) -> None:
        """Brings a block to the file unless it is there.

        Raises like `read`, `TargetError`, and of that `NoRoomError`.
        """
        with self._locks[number % len(self._locks)]:
            trouble = None if self._found(number) else self._keep(number, self._from_copy(number))
        if trouble:
            raise (NoRoomError if trouble.errno in FULL else TargetError)(trouble, self.path)

    @property
    def room(self) -> int:
        """How many bytes may be kept there as of now. Raises OSError."""
        found = os.fstatvfs(self._file)
        return max(0, found.f_bavail * found.f_frsize - self._spare)

    def flush(self) -> None:
        """Brings the file to the disk; then it is whole. Raises `TargetError`.

        If the disk does not take it, no block is local any more: nobody knows which were lost, and
        a second flush would not tell. Raises ValueError unless all blocks are local.
        """
        if self.filled != self.blocks:
            raise ValueError(f"{self.blocks - self.filled} blocks of {self.path} are missing")
        try:
            if os.fstat(self._file).st_size != self.size:
                raise OSError(errno.EIO, "it has another length than it was given")
        except OSError as error:
            raise TargetError(error, self.path) from None
        try:
            os.fsync(self._file)
        except OSError as error:
            self._forget()
            raise TargetError(error, self.path) from None

    def _forget(self) -> None:
        """Makes holes of all blocks, in the digests as well. Raises `TargetError`."""
        with contextlib.ExitStack() as stack:
            for lock in self._locks:
                stack.enter_context(lock)
            self._forgotten += 1
            self._noted = False
            self._local = bytearray(self.blocks)
            try:
                os.ftruncate(self._digests, 0)
                os.ftruncate(self._file, self._data)
                os.ftruncate(self._file, self.size)
            except OSError as error:
                raise TargetError(error, self.path) from None
            self._noted = True

    def _part(self, number: int, before: int, wanted: int) -> bytes:
        data = self._at_once(number, before, wanted)
        if data is not None:
            return data
        with self._locks[number % len(self._locks)]:
            if not self._found(number):
                data = self._from_copy(number)
                if self._keep(number, data):  # the guest has its bytes all the same
                    return data[before : before + wanted]
        return self._exactly(self._place(number) + before, wanted)

    def _at_once(self, number: int, before: int, wanted: int) -> bytes | None:
        """The bytes, if they are local: whoever has the lock may be waiting for the copy."""
        forgotten = self._forgotten
        if not self._local[number]:
            if not self._is_noted(number):
                return None
            lock = self._locks[number % len(self._locks)]
            if lock.acquire(blocking=False):
                try:
                    if forgotten == self._forgotten:
                        self._local[number] = 1
                finally:
                    lock.release()
        try:
            data = self._exactly(self._place(number) + before, wanted)
        except OSError:
            if forgotten == self._forgotten:
                raise
        return data if forgotten == self._forgotten else None  # else it may be a hole by now

    def _found(self, number: int) -> bool:
        """Whether the block is local, by its digest if that was not known yet."""
        if not self._local[number]:
            if not self._is_noted(number):
                return False
            self._local[number] = 1
        return True

    def _is_noted(self, number: int) -> bool:
        """Whether the block in the file has the digest that was noted of it."""
        digest = os.pread(self._digests, _DIGEST_BYTES, number * _DIGEST_BYTES)
        if not self._noted or len(digest) < _DIGEST_BYTES or digest == _NONE:
            return False
        return _digest(os.pread(self._file, BLOCK, self._place(number))) == digest

    def _from_copy(self, number: int) -> bytes:
        position = self._positions[number] * BLOCK
        wanted = min(BLOCK, self._disk_size - position)
        data = self._fetch(position, wanted)
        if len(data) != wanted:
            raise CopyError(f"the copy ends at byte {position + len(data)} of a disk")
        return data.ljust(BLOCK, b"\0")

    def _keep(self, number: int, data: bytes) -> OSError | None:
        """Writes a block; why that is not possible."""
        try:
            if self.room < BLOCK:
                return OSError(errno.ENOSPC, f"less than {human(self._spare)} would be free")
            if os.pwrite(self._file, data, self._place(number)) != BLOCK:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.pwrite(self._digests, _digest(data), number * _DIGEST_BYTES)
        except OSError as error:
            return error
        self._local[number] = 1
        return None

    def _place(self, number: int) -> int:
        return self._data + number * BLOCK

    def _exactly(self, place: int, length: int) -> bytes:
        data = os.pread(self._file, length, place)
        if len(data) != length:
            raise OSError(errno.EIO, f"{self.path} is shorter than it was")
        return data


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
