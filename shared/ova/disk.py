"""A disk as the guest sees it: a VDI image and its parents.

Each block is taken from the first image that has it.

Differencing images copy whole blocks on write, so that it is enough to decide block by block.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from uuid import UUID

from shared.host.errors import DiskImageError
from shared.ova.vdi import FREE, WINDOW, ZERO, VdiImage

_MERGE: Final = (
    "if the VM is as it should be, delete the snapshots that stand between, or clone it in full"
)


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


@dataclass(frozen=True, slots=True)
class Link:
    """An image and its parent, with the modification UUID the image notes and the one it has."""

    child: UUID
    parent: UUID
    noted: UUID
    found: UUID

    @classmethod
    def between(cls, child: VdiImage, parent: VdiImage) -> Self:
        """That between two images."""
        below, above = child.header, parent.header
        return cls(
            below.identifier, above.identifier, below.parent_modification, above.modification
        )


#: Says of an image and its parent whether they belong together though the parent has another
#: modification UUID than the image notes.
Accept = Callable[[VdiImage, VdiImage], bool]


class Chain:
    """The images of one disk, leaf first, open and found to belong together.

    Each parent must be the very image that its child was made from (UUID), unchanged since
    (modification UUID, unless `accept` says that all is well), and of the same size: what is beyond
    the end of a smaller parent, VirtualBox 7.2 itself cannot read (VERR_INVALID_PARAMETER).

    `links` are those that were accepted.
    """

    def __init__(
        self, images: Sequence[VdiImage], accept: Accept = lambda _child, _parent: False
    ) -> None:
        self.images = tuple(images)
        self.size = images[0].header.size
        self.block_size = images[0].header.block_size
        pairs = list(itertools.pairwise(images))
        self.links = frozenset(
            Link.between(child, parent)
            for child, parent in pairs
            if not _check_parent(child, parent, accept)
        )
        if images[-1].header.parent:
            raise DiskImageError(
                f"{images[-1].path}: its parent {images[-1].header.parent} is not known"
            )

    @classmethod
    def open(cls, paths: Sequence[Path], accept: Accept = lambda _child, _parent: False) -> Self:
        """Opens the files, leaf first.

        Raises `DiskImageError` for a damaged file or files that do not belong together.
        """
        with ExitStack() as stack:
            chain = cls([stack.enter_context(VdiImage.open(path)) for path in paths], accept)
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

    def witnesses(self) -> list[Block]:
        """The last block of each parent that was accepted, if the disk has any of it.

        What VirtualBox reads there shows whether it has the same image in mind.
        """
        asked = {link.parent for link in self.links}
        last: dict[UUID, Block] = {}
        for block in self.blocks() if asked else ():
            if block.image.header.identifier in asked:
                last[block.image.header.identifier] = block
        return list(last.values())

    def changed(self) -> Path | None:
        """A file of the chain that is no longer what was opened; None if all are."""
        return next((image.path for image in self.images if image.changed()), None)


def _check_parent(child: VdiImage, parent: VdiImage, accept: Accept) -> bool:
    """Whether the parent is what its child notes.

    Raises `DiskImageError` if it must not be used.
    """
    if child.header.parent != parent.header.identifier:
        raise DiskImageError(
            f"{child.path}: its parent is {child.header.parent}, not {parent.path} "
            f"({parent.header.identifier})"
        )
    if child.header.block_size != parent.header.block_size:
        raise DiskImageError(
            f"{child.path}: its blocks are not of the size of those of its parent {parent.path}"
        )
    if child.header.size != parent.header.size:
        raise DiskImageError(
            f"{child.path}: it was resized, its parent {parent.path} was not", hint=_MERGE
        )
    if child.header.parent_modification == parent.header.modification:
        return True
    if not accept(child, parent):
        raise DiskImageError(
            f"{child.path}: its parent {parent.path} was changed after it was made", hint=_MERGE
        )
    return False
