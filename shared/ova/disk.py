"""A disk as the guest sees it: a VDI image and its parents.

Each block is taken from the first image that has it.

Differencing images copy whole blocks on write, so that it is enough to decide block by block.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from shared.host.errors import DiskImageError
from shared.ova.vdi import FREE, WINDOW, ZERO, VdiImage


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the disk that some image holds: `length` bytes from `position` on."""

    position: int
    length: int
    image: VdiImage
    entry: int

    def read(self) -> bytes:
        """The bytes. Raises `DiskImageError`."""
        return self.image.read(self.entry, self.length)

    def read_part(self, start: int, length: int) -> bytes:
        """So many bytes from byte `start` of the block on. Raises `DiskImageError`."""
        return self.image.read(self.entry, length, start)

    @property
    def place(self) -> int:
        """Where it begins in the file of its image."""
        return self.image.place(self.entry)


class Chain:
    """The images of one disk, leaf first, open and found to belong together.

    Each parent must be the very image that its child was made from (UUID), unchanged since
    (modification UUID), and of the same size: what is beyond the end of a smaller parent,
    VirtualBox 7.2 itself cannot read (VERR_INVALID_PARAMETER).
    """

    def __init__(self, images: Sequence[VdiImage]) -> None:
        self.images = tuple(images)
        self.size = images[0].header.size
        self.block_size = images[0].header.block_size
        for child, parent in itertools.pairwise(images):
            _check_parent(child, parent)
        if images[-1].header.parent:
            raise DiskImageError(
                f"{images[-1].path}: its parent {images[-1].header.parent} is not known"
            )

    @classmethod
    def open(cls, paths: Sequence[Path]) -> Self:
        """Opens the files, leaf first.

        Raises `DiskImageError` for a damaged file or files that do not belong together.
        """
        with ExitStack() as stack:
            chain = cls([stack.enter_context(VdiImage.open(path)) for path in paths])
            stack.pop_all()
        return chain

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all files."""
        for image in self.images:
            image.close()

    def blocks(self) -> Iterator[Block]:
        """The blocks that hold data, in the order of the disk. What is not among them is zeros."""
        for start in range(0, self.images[0].header.blocks, WINDOW):
            count = min(WINDOW, self.images[0].header.blocks - start)
            maps = [(image, image.entries(start, count)) for image in self.images]
            for offset in range(count):
                for image, entries in maps:
                    entry = entries[offset]
                    if entry != FREE:
                        if entry != ZERO:
                            position = (start + offset) * self.block_size
                            yield Block(
                                position, min(self.block_size, self.size - position), image, entry
                            )
                        break

    def data_bytes(self) -> int:
        """How many bytes `blocks` will give, which is what an export has to read."""
        return sum(block.length for block in self.blocks())

    def allocated_bytes(self) -> int:
        """How many bytes hold data at most. Quicker than `data_bytes`."""
        return min(
            self.size, sum(image.header.allocated for image in self.images) * self.block_size
        )

    def beginning(self, length: int) -> bytes:
        """The first `length` bytes of the disk."""
        result = bytearray(min(length, self.size))
        for block in self.blocks():
            if block.position >= length:
                break
            data = block.read()[: length - block.position]
            result[block.position : block.position + len(data)] = data
        return bytes(result)

    def changed(self) -> Path | None:
        """A file of the chain that is no longer what was opened; None if all are."""
        return next((image.path for image in self.images if image.changed()), None)


def _check_parent(child: VdiImage, parent: VdiImage) -> None:
    if child.header.parent != parent.header.identifier:
        raise DiskImageError(
            f"{child.path}: its parent is {child.header.parent}, not {parent.path} "
            f"({parent.header.identifier})"
        )
    if child.header.parent_modification != parent.header.modification:
        raise DiskImageError(
            f"{child.path}: its parent {parent.path} was changed after it was made"
        )
    if child.header.block_size != parent.header.block_size:
        raise DiskImageError(
            f"{child.path}: its blocks are not of the size of those of its parent {parent.path}"
        )
    if child.header.size != parent.header.size:
        raise DiskImageError(f"{child.path}: it was resized, its parent {parent.path} was not")
