"""Disk images for tests.

Writes small VDI files, and reads stream-optimised VMDK files by other means than the program does.
"""

import functools
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

FREE = 0xFFFFFFFF
ZERO = 0xFFFFFFFE
GRAIN = 65536
NO_UUID = UUID(int=0)


@dataclass
class Vdi:
    """A VDI file to be written.

    `blocks` maps a block's number to its bytes, or to ZERO; what is not in it is free.
    """

    size: int
    blocks: dict[int, bytes | int] = field(default_factory=dict)
    block_size: int = 65536
    kind: int = 1
    identifier: UUID = field(default_factory=uuid4)
    modification: UUID = field(default_factory=uuid4)
    parent: UUID = NO_UUID
    parent_modification: UUID = NO_UUID
    map_offset: int = 512

    @property
    def count(self) -> int:
        return -(-self.size // self.block_size)

    @property
    def data_offset(self) -> int:
        return -(-(self.map_offset + 4 * self.count) // 512) * 512

    def child(self, blocks: dict[int, bytes | int]) -> "Vdi":
        """A differencing image on top of this one."""
        return Vdi(
            self.size,
            blocks,
            self.block_size,
            kind=4,
            parent=self.identifier,
            parent_modification=self.modification,
        )

    def render(self) -> bytes:
        """The file. Blocks are stored last one first, so that place and number differ."""
        stored = [
            number
            for number, content in sorted(self.blocks.items(), reverse=True)
            if isinstance(content, bytes)
        ]
        entries = [FREE] * self.count
        for number, content in self.blocks.items():
            entries[number] = stored.index(number) if isinstance(content, bytes) else content
        header = bytearray(512)
        header[:39] = b"<<< Oracle VM VirtualBox Disk Image >>>"
        struct.pack_into("<4I", header, 0x40, 0xBEDA107F, 0x10001, 400, self.kind)
        struct.pack_into("<2I", header, 0x154, self.map_offset, self.data_offset)
        struct.pack_into("<I", header, 0x168, 512)
        struct.pack_into(
            "<Q4I", header, 0x170, self.size, self.block_size, 0, self.count, len(stored)
        )
        for offset, uuid in zip(
            (0x188, 0x198, 0x1A8, 0x1B8),
            (self.identifier, self.modification, self.parent, self.parent_modification),
            strict=True,
        ):
            header[offset : offset + 16] = uuid.bytes_le
        parts = [
            bytes(header).ljust(self.map_offset, b"\0") + struct.pack(f"<{self.count}I", *entries)
        ]
        parts = [parts[0].ljust(self.data_offset, b"\0")]
        parts += [_bytes(self.blocks[number]).ljust(self.block_size, b"\0") for number in stored]
        return b"".join(parts)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.render())
        return path


def _bytes(content: bytes | int) -> bytes:
    assert isinstance(content, bytes)
    return content


def content(images: list[Vdi]) -> bytes:
    """What a guest sees of a chain, leaf first, worked out from what was put into it."""
    disk = bytearray(images[0].count * images[0].block_size)
    for image in reversed(images):
        for number, block in image.blocks.items():
            data = (
                bytes(image.block_size)
                if block == ZERO
                else _bytes(block).ljust(image.block_size, b"\0")
            )
            disk[number * image.block_size : (number + 1) * image.block_size] = data
    return bytes(disk[: images[0].size])


class VmdkReader:
    """Reads a stream-optimised VMDK twice: along its markers, and through its directory.

    Both must agree.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        assert len(data) % 512 == 0
        (
            magic,
            version,
            flags,
            self.capacity,
            grain,
            descriptor,
            length,
            per_table,
            redundant,
            directory,
        ) = struct.unpack_from("<4sIIQQQQIQQ", data)
        assert (magic, version, flags, grain, per_table, redundant) == (
            b"KDMV",
            3,
            0x30001,
            128,
            512,
            0,
        )
        assert directory == 2**64 - 1
        assert data[64 + 8 : 64 + 15] == b"\0\n \r\n\x01\0"
        self.descriptor = (
            data[descriptor * 512 : (descriptor + length) * 512].rstrip(b"\0").decode()
        )
        footer = data[-1024:-512]
        assert data[-512:] == bytes(512)
        assert footer[:56] == data[:56]
        assert footer[64:] == data[64:512]
        (self.directory_sector,) = struct.unpack_from("<Q", footer, 56)

    def along_markers(self) -> dict[int, bytes]:
        """The grains by number, met from front to end."""
        grains: dict[int, bytes] = {}
        for sector, size in self.packed_grains():
            (value,) = struct.unpack_from("<Q", self.data, sector * 512)
            assert not grains or value // 128 > max(grains), "grains are in the order of the disk"
            grains[value // 128] = zlib.decompress(
                self.data[sector * 512 + 12 : sector * 512 + 12 + size]
            )
        return grains

    def packed_grains(self) -> Iterator[tuple[int, int]]:
        """Where each grain is, in sectors of the file, and how many bytes it has there, packed."""
        sector = 128
        while True:
            value, size, kind = struct.unpack_from("<QII", self.data, sector * 512)
            if size:
                yield sector, size
                sector += -(-(size + 12) // 512)
            elif kind == 0:
                assert (sector + 1) * 512 == len(self.data), "the end marker is the last sector"
                return
            elif kind == 4:
                sector += 1
            else:
                sector += 1 + value

    def through_directory(self) -> dict[int, bytes]:
        """The grains by number, found through the tables."""
        grains: dict[int, bytes] = {}
        tables = struct.unpack_from(
            f"<{-(-self.capacity // (128 * 512))}I", self.data, self.directory_sector * 512
        )
        for number, table in enumerate(tables):
            places = struct.unpack_from("<512I", self.data, table * 512) if table else ()
            for entry, sector in enumerate(places):
                if sector:
                    position, size = struct.unpack_from("<QI", self.data, sector * 512)
                    assert position == (number * 512 + entry) * 128
                    grains[number * 512 + entry] = zlib.decompress(
                        self.data[sector * 512 + 12 : sector * 512 + 12 + size]
                    )
        return grains

    def grains(self) -> dict[int, bytes]:
        """The grains by number; AssertionError if the two ways differ or a grain is not one."""
        grains = self.along_markers()
        assert grains == self.through_directory()
        assert all(len(grain) == GRAIN and any(grain) for grain in grains.values())
        assert max(grains, default=0) < self.capacity // 128
        return grains

    def disk(self, size: int) -> bytes:
        """The whole disk of so many bytes."""
        assert self.capacity == -(-size // GRAIN) * 128
        grains = self.grains()
        whole = b"".join(grains.get(number, bytes(GRAIN)) for number in range(-(-size // GRAIN)))
        assert not any(whole[size:])
        return whole[:size]


@functools.cache
def pattern(seed: int, length: int) -> bytes:
    """Bytes that compress to about two thirds, and differ for each seed."""
    source = random.Random(seed)
    return b"".join(source.randbytes(64) + bytes(32) for _ in range(length // 96 + 1))[:length]
