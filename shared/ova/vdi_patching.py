"""Writes a disk over a clone of an image that has most of it: only what differs is written."""

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, Final
from uuid import uuid4

from shared.host.errors import DiskImageError
from shared.ova.vdi import ZERO, VdiImage
from shared.ova.vdi_header import Kind, require
from shared.ova.vdi_writing import BLOCK, DiskFile, TargetError

#: Where the header says how many blocks are allocated, and which modification this is.
_ALLOCATED_AT: Final = 0x184
_MODIFICATION_AT: Final = 0x198
#: So many bytes are made zeros together.
_PIECE: Final = 1 << 16
#: FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE.
_PUNCH: Final = 0x01 | 0x02


class PatchedVdi(DiskFile):
    """A dynamic VDI image of blocks of 1 MiB, a clone of the one in use, that gets other contents.

    It keeps its UUID, and gets a modification UUID of its own. First `zero_all_but`, then what a
    `DiskFile` is told; what has the right bytes is not written. `written`: how many bytes were, and
    how many were made zeros.
    """

    _FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW

    def __init__(self, path: Path, size: int) -> None:
        """Opens `path`. Raises `DiskImageError` if it is another kind of image, or of another size.

        Nothing is changed then.
        """
        with VdiImage.open(path) as image:
            header = image.header
            require(
                header.kind == Kind.DYNAMIC and header.block_size == BLOCK,
                f"{path}: no dynamic image of blocks of 1 MiB",
            )
            require(header.size == size, f"{path}: a disk of {header.size} bytes, not {size}")
            self._map = image.entries(0, header.blocks)
        super().__init__(path, size)
        self._data, self._map_offset = header.data_offset, header.map_offset
        self._allocated = header.allocated
        self._counting = Lock()
        self.written = 0
        try:
            os.ftruncate(self._descriptor, self._end)  # what is behind it belongs to no block
        except OSError as error:
            self.close()
            raise TargetError(error, path) from None

    @property
    def _end(self) -> int:
        return self._data + self._allocated * BLOCK

    def zero_all_but(self, runs: Iterable[tuple[int, int]]) -> None:
        """Makes zeros of everything outside of these ranges: offset, length, in their order."""
        end = 0
        for offset, length in chain(runs, [(self.size, 0)]):
            self._zero_between(end, offset)
            end = offset + length

    def _zero_between(self, start: int, end: int) -> None:
        while start < end:
            number, offset = divmod(start, BLOCK)
            length = min(BLOCK - offset, end - start)
            if self._map[number] < ZERO:
                self.zero(self._data + self._map[number] * BLOCK + offset, length)
            start += length

    def reserve(self, position: int) -> int:
        """Where in the file the bytes of the disk from `position` on go, to the end of a block."""
        number, offset = divmod(position, BLOCK)
        if self._map[number] >= ZERO:
            self._map[number] = self._allocated
            self._allocated += 1
        return self._data + self._map[number] * BLOCK + offset

    def write(self, place: int, pieces: Sequence[bytes | bytearray]) -> None:
        """Writes those of the pieces that are not there."""
        for piece in pieces:
            if self._read(len(piece), place) != piece:
                super().write(place, [piece])
                with self._counting:
                    self.written += len(piece)
            place += len(piece)

    def zero(self, place: int, length: int) -> None:
        """Makes zeros of so many bytes, where they are none; behind the end of it they are.

        As holes, which take no room, where the file system has them.
        """
        data = self._read(length, place)
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            if piece.count(0) != len(piece):
                if not punch_hole(self._descriptor, place + start, len(piece)):
                    super().write(place + start, [bytes(len(piece))])
                with self._counting:
                    self.written += len(piece)

    def _read(self, length: int, place: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, place)
        except OSError as error:
            raise DiskImageError(f"{self.path} cannot be read: {error.strerror}") from None

    def _complete(self, descriptor: int) -> None:
        os.ftruncate(descriptor, self._end)
        if sys.byteorder == "big":
            self._map.byteswap()
        super().write(self._map_offset, [self._map.tobytes()])
        super().write(_ALLOCATED_AT, [struct.pack("<I", self._allocated)])
        super().write(_MODIFICATION_AT, [uuid4().bytes_le])


def punch_hole(descriptor: int, place: int, length: int) -> bool:
    """Makes a hole of so many bytes of a file that is open for writing.

    Answers whether that was done: not every file system can.
    """
    fallocate = _fallocate()
    return fallocate is not None and fallocate(descriptor, _PUNCH, place, length) == 0


@cache
def _fallocate() -> Any:  # noqa: ANN401 - a function of C
    if platform.system() != "Linux":
        return None
    function = getattr(ctypes.CDLL(None), "fallocate64", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function
