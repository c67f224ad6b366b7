"""Reads VDI files: dynamic, fixed and differencing images, as VirtualBox and qemu-img write them.

A file is refused (`DiskImageError`) wherever it says something that VirtualBox would not write: an
image that was misread would become a wrong backup, an image that was refused goes to `VBoxManage
export`.

All numbers of the format are little-endian. The header starts at 0x40, behind a line of text.
"""

import os
import stat
import sys
from array import array
from pathlib import Path
from typing import Final, Self

from shared.host.errors import DiskImageError
from shared.ova.vdi_header import HEADER_BYTES, VdiHeader, parse_header, require

#: A map entry without a place in the file: ask the parent; without one the block is zeros.
FREE: Final = 0xFFFFFFFF
#: A map entry without a place in the file: the block is zeros, whatever the parent has.
ZERO: Final = 0xFFFFFFFE

#: Map entries read at a time (256 KiB), so that memory does not grow with the disk.
WINDOW: Final = 65536


class VdiImage:
    """One VDI file, open for reading, with a header and a block map that were found sound.

    Reading is safe from several threads. Memory does not grow with the disk. Close it, or use it in
    a `with` statement.
    """

    def __init__(self, path: Path, descriptor: int, header: VdiHeader) -> None:
        self.path = path
        self.header = header
        self._descriptor = descriptor
        self._found = self._state()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens and checks `path`.

        Raises `DiskImageError` with the path: unreadable, no VDI, damaged, or of unknown kind.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise DiskImageError(f"{path}: {error.strerror}") from None
        try:
            require(stat.S_ISREG(os.fstat(descriptor).st_mode), "this is no file")
            image = cls(
                path, descriptor, parse_header(_read(descriptor, HEADER_BYTES, 0, "its header"))
            )
            image._check_map()
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, DiskImageError):
                raise DiskImageError(f"{path}: {error.message}") from None
            raise
        return image

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. May be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def changed(self) -> bool:
        """Whether the file was written, replaced or deleted since it was opened."""
        try:
            named = os.stat(self.path)
        except OSError:
            return True
        return self._state() != self._found or (named.st_dev, named.st_ino) != self._found[:2]

    def entries(self, start: int, count: int) -> "array[int]":
        """The map entries of `count` blocks from `start` on; fewer at the end of the disk.

        Raises `DiskImageError`.
        """
        count = max(0, min(count, self.header.blocks - start))
        window = array("I")
        window.frombytes(
            _read(self._descriptor, 4 * count, self.header.map_offset + 4 * start, "its block map")
        )
        if sys.byteorder == "big":
            window.byteswap()
        return window

    def place(self, entry: int) -> int:
        """Where the block at place `entry` begins in the file, in bytes."""
        return self.header.data_offset + entry * self.header.block_size

    @property
    def descriptor(self) -> int:
        """The open file."""
        return self._descriptor

    def read(self, entry: int, length: int, start: int = 0) -> bytes:
        """So many bytes from byte `start` of the block at place `entry` of the file on.

        Raises `DiskImageError` if they are not there.
        """
        try:
            return _read(self._descriptor, length, self.place(entry) + start, "a block")
        except DiskImageError as error:
            raise DiskImageError(f"{self.path}: {error.message}") from None

    def _state(self) -> tuple[int, int, int, int]:
        status = os.fstat(self._descriptor)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _check_map(self) -> None:
        """Raises `DiskImageError` if a block lies outside of the file, or is used twice.

        Either would mix up the contents of the disk. Behind the start of the data there are whole
        blocks only, at least the allocated ones.
        """
        header = self.header
        data = self._found[2] - header.data_offset
        require(
            data >= header.allocated * header.block_size,
            f"the file ends before its {header.allocated} allocated blocks",
        )
        require(
            data % header.block_size == 0,
            f"the file has {data} bytes of data, which are no whole blocks",
        )
        seen = bytearray(header.allocated)
        for start in range(0, header.blocks, WINDOW):
            for index, entry in enumerate(self.entries(start, WINDOW), start):
                if entry >= ZERO:
                    continue
                require(
                    entry < header.allocated,
                    f"block {index} lies beyond the {header.allocated} allocated ones",
                )
                require(not seen[entry], f"block {index} shares its place with another")
                seen[entry] = 1


def _read(descriptor: int, length: int, position: int, what: str) -> bytes:
    """Exactly `length` bytes. Raises `DiskImageError`."""
    try:
        data = os.pread(descriptor, length, position)
        while len(data) < length:
            more = os.pread(descriptor, length - len(data), position + len(data))
            require(bool(more), f"the file ends inside of {what}")
            data += more
    except OSError as error:
        raise DiskImageError(f"{what} cannot be read: {error.strerror}") from None
    return data
