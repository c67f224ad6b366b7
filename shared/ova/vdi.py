"""Reads VDI files: dynamic, fixed and differencing images, as VirtualBox and qemu-img write them.

A file is refused (`DiskImageError`) wherever it says something that VirtualBox would not write: an
image that was misread would become a wrong backup, an image that was refused goes to `VBoxManage
export`.

All numbers of the format are little-endian. The header starts at 0x40, behind a line of text.
"""

import os
import stat
import struct
import sys
from array import array
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final, Self
from uuid import UUID

from shared.host.errors import DiskImageError

#: A map entry without a place in the file: ask the parent; without one the block is zeros.
FREE: Final = 0xFFFFFFFF
#: A map entry without a place in the file: the block is zeros, whatever the parent has.
ZERO: Final = 0xFFFFFFFE

SECTOR: Final = 512
HEADER_BYTES: Final = 512
#: Map entries read at a time (256 KiB), so that memory does not grow with the disk.
WINDOW: Final = 65536

_SIGNATURE: Final = 0xBEDA107F
_HEADER_START: Final = 0x48
_SHORTEST_HEADER: Final = 384
_SMALLEST_BLOCK: Final = 64 * 1024
_LARGEST_BLOCK: Final = 1024 * 1024
_NO_UUID: Final = UUID(int=0)


class Kind(IntEnum):
    """The image types that are read. Type 3 (undo) was never in use."""

    DYNAMIC = 1
    FIXED = 2
    DIFFERENCING = 4


@dataclass(frozen=True, slots=True)
class VdiHeader:
    """What the header of a VDI file says, in bytes. `size` is that of the disk the guest sees."""

    kind: Kind
    map_offset: int
    data_offset: int
    size: int
    block_size: int
    blocks: int
    allocated: int
    identifier: UUID
    modification: UUID
    parent: UUID | None
    parent_modification: UUID


def parse_header(data: bytes) -> VdiHeader:
    """The header in the first 512 bytes of a file.

    Raises `DiskImageError` for anything that VirtualBox would not write.
    """
    _require(len(data) >= HEADER_BYTES, "the file is shorter than a VDI header")
    signature, version, length, kind = struct.unpack_from("<4I", data, 0x40)
    _require(signature == _SIGNATURE, "this is no VDI file")
    _require(version >> 16 == 1, f"VDI version {version >> 16}.{version & 0xFFFF}")
    _require(kind in tuple(Kind), f"VDI type {kind}")
    map_offset, data_offset = struct.unpack_from("<2I", data, 0x154)
    (sector_size,) = struct.unpack_from("<I", data, 0x168)
    size, block_size, extra, blocks, allocated = struct.unpack_from("<Q4I", data, 0x170)
    identifier, modification, parent, parent_modification = (
        UUID(bytes_le=data[at : at + 16]) for at in (0x188, 0x198, 0x1A8, 0x1B8)
    )
    _require(
        _SHORTEST_HEADER <= length <= map_offset - _HEADER_START,
        f"a header of {length} bytes before a map at {map_offset}",
    )
    _require(sector_size in (0, SECTOR), f"sectors of {sector_size} bytes")
    _require(size > 0 and size % SECTOR == 0, f"a disk of {size} bytes")
    _require(_is_block_size(block_size), f"blocks of {block_size} bytes")
    _require(extra == 0, f"{extra} bytes before each block")
    _require(blocks == -(-size // block_size), f"{blocks} blocks for a disk of {size} bytes")
    _require(allocated <= blocks, f"{allocated} of {blocks} blocks allocated")
    _require(
        data_offset >= map_offset + 4 * blocks, f"data at {data_offset} inside of the block map"
    )
    _require(_NO_UUID not in (identifier, modification), "no UUID")
    _require(
        (kind == Kind.DIFFERENCING) == (parent != _NO_UUID),
        "its type and its parent contradict each other",
    )
    return VdiHeader(
        kind=Kind(kind),
        map_offset=map_offset,
        data_offset=data_offset,
        size=size,
        block_size=block_size,
        blocks=blocks,
        allocated=allocated,
        identifier=identifier,
        modification=modification,
        parent=None if parent == _NO_UUID else parent,
        parent_modification=parent_modification,
    )


def _is_block_size(value: int) -> bool:
    return _SMALLEST_BLOCK <= value <= _LARGEST_BLOCK and value & (value - 1) == 0


def _require(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not condition:
        raise DiskImageError(otherwise)


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
            _require(stat.S_ISREG(os.fstat(descriptor).st_mode), "this is no file")
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
        _require(
            data >= header.allocated * header.block_size,
            f"the file ends before its {header.allocated} allocated blocks",
        )
        _require(
            data % header.block_size == 0,
            f"the file has {data} bytes of data, which are no whole blocks",
        )
        seen = bytearray(header.allocated)
        for start in range(0, header.blocks, WINDOW):
            for index, entry in enumerate(self.entries(start, WINDOW), start):
                if entry >= ZERO:
                    continue
                _require(
                    entry < header.allocated,
                    f"block {index} lies beyond the {header.allocated} allocated ones",
                )
                _require(not seen[entry], f"block {index} shares its place with another")
                seen[entry] = 1


def _read(descriptor: int, length: int, position: int, what: str) -> bytes:
    """Exactly `length` bytes. Raises `DiskImageError`."""
    try:
        data = os.pread(descriptor, length, position)
        while len(data) < length:
            more = os.pread(descriptor, length - len(data), position + len(data))
            _require(bool(more), f"the file ends inside of {what}")
            data += more
    except OSError as error:
        raise DiskImageError(f"{what} cannot be read: {error.strerror}") from None
    return data
