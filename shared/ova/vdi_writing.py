"""Writes VDI files as VirtualBox makes them: dynamic ones, of blocks of 1 MiB.

The blocks are laid out in the order in which they are asked for, their bytes may then come from
several threads. What is never written stays a hole of the file, which is zeros.
"""

import contextlib
import os
import struct
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self
from uuid import UUID, uuid4

from shared.host.errors import VmBackupError
from shared.nas.nas_errors import FULL
from shared.ova.vdi import FREE
from shared.ova.vdi_header import HEADER_BYTES, SECTOR

BLOCK: Final = 1 << 20
_TEXT: Final = b"<<< Oracle VM VirtualBox Disk Image >>>\n"
_SIGNATURE: Final = 0xBEDA107F
_VERSION: Final = 0x00010001
_LENGTH: Final = 400
_DYNAMIC: Final = 1
_HEADS: Final = 16
_TRACK: Final = 63
_CYLINDERS_LIMIT: Final = 16383


class TargetError(VmBackupError):
    """A disk of this host, to which a copy is unpacked, cannot be written."""

    def __init__(self, error: OSError, path: Path) -> None:
        full = error.errno in FULL
        super().__init__(
            f"cannot write {path}: {error.strerror}",
            hint="make room there, or choose another place: --to" if full else "",
        )


class DiskFile:
    """A new file for the bytes of a disk of `size` bytes.

    `reserve` in one thread, in the order of the disk; `write` in any; `finish` at last. Whatever
    happens, `close` it. A crash leaves a file that is no disk, or one without all its bytes.

    All raise `TargetError` if the file cannot be written.
    """

    _FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW

    def __init__(self, path: Path, size: int) -> None:
        """Creates `path`, which must not exist."""
        self.path, self.size = path, size
        try:
            self._descriptor = os.open(path, self._FLAGS, 0o600)
        except OSError as error:
            raise TargetError(error, self.path) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. May be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def reserve(self, position: int) -> int:
        """Where in the file the bytes of the disk from `position` on go, to the end of a block."""
        return position

    def write(self, place: int, pieces: Sequence[bytes | bytearray]) -> None:
        """Writes pieces one behind the other, at a place that was reserved."""
        length = sum(map(len, pieces))
        try:
            done = os.pwritev(self._descriptor, pieces, place)
            rest = b"".join(pieces)[done:] if done < length else b""
            while rest:
                done += (more := os.pwrite(self._descriptor, rest, place + done))
                rest = rest[more:]
        except OSError as error:
            raise TargetError(error, self.path) from None
        if sys.platform == "linux":
            # Linux begins to bring them to the disk, and nobody waits for it; else it would keep
            # gigabytes, and `finish` wait for them. What goes wrong is told by `finish`.
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._descriptor, place, length, os.POSIX_FADV_DONTNEED)

    def zero(self, place: int, length: int) -> None:
        """Sees to it that so many bytes from a place that was reserved are zeros, in any thread.

        In a new file they are.
        """

    def finish(self) -> None:
        """Completes the file, and brings it to the disk."""
        try:
            self._complete(self._descriptor)
            os.fsync(self._descriptor)
        except OSError as error:
            raise TargetError(error, self.path) from None

    def _complete(self, descriptor: int) -> None:
        os.ftruncate(descriptor, self.size)


class RawFile(DiskFile):
    """The disk byte by byte."""


class VdiFile(DiskFile):
    """A dynamic VDI image with this UUID."""

    def __init__(self, path: Path, size: int, identifier: UUID) -> None:
        """Creates `path`, which must not exist."""
        super().__init__(path, size)
        self._identifier = identifier
        self._blocks = -(-size // BLOCK)
        self._data = -(-(HEADER_BYTES + 4 * self._blocks) // BLOCK) * BLOCK
        self._map = array("I", [FREE]) * self._blocks
        self._allocated = 0

    def reserve(self, position: int) -> int:
        """Where in the file the bytes of the disk from `position` on go, to the end of a block."""
        number, offset = divmod(position, BLOCK)
        if self._map[number] == FREE:
            self._map[number] = self._allocated
            self._allocated += 1
        return self._data + self._map[number] * BLOCK + offset

    def _complete(self, descriptor: int) -> None:
        os.ftruncate(descriptor, self._data + self._allocated * BLOCK)
        if sys.byteorder == "big":
            self._map.byteswap()
        self.write(HEADER_BYTES, [self._map.tobytes()])
        self.write(0, [self._header()])

    def _header(self) -> bytes:
        header = bytearray(HEADER_BYTES)
        header[: len(_TEXT)] = _TEXT
        struct.pack_into("<5I", header, 0x40, _SIGNATURE, _VERSION, _LENGTH, _DYNAMIC, 0)
        struct.pack_into("<2I", header, 0x154, HEADER_BYTES, self._data)
        struct.pack_into("<I", header, 0x168, SECTOR)
        struct.pack_into("<Q4I", header, 0x170, self.size, BLOCK, 0, self._blocks, self._allocated)
        header[0x188:0x198] = self._identifier.bytes_le
        header[0x198:0x1A8] = uuid4().bytes_le
        cylinders = min(self.size // SECTOR // (_HEADS * _TRACK), _CYLINDERS_LIMIT)
        struct.pack_into("<4I", header, 0x1C8, cylinders, _HEADS, _TRACK, SECTOR)
        return bytes(header)
