"""The file of a disk without the bytes of its blocks: header, map, and holes."""

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import UUID

from shared.host.errors import CopyError
from shared.ova.disk_reader import DiskReader
from shared.ova.vdi import FREE
from shared.ova.vdi_writing import BLOCK, VdiFile
from shared.ova.vmdk import unpack_sectors


def lay_out(disk: DiskReader, path: Path, identifier: UUID) -> None:
    """Makes the file of a disk, without the bytes of its blocks, and brings that to the disk.

    Raises `TargetError`, also if there is such a file, `CopyError`, `NasError`.
    """
    with VdiFile(path, disk.size, identifier) as file:
        for position in _blocks(disk.runs()):
            file.reserve(position)
        file.finish()


def _blocks(runs: Iterable[tuple[int, int]]) -> Iterator[int]:
    """The positions of the blocks of which a part is in a run, each once."""
    following = 0
    for offset, length in runs:
        for position in range(max(following, offset // BLOCK * BLOCK), offset + length, BLOCK):
            yield position
            following = position + BLOCK


def positions(data: bytes, allocated: int) -> "array[int]":
    """For each block of the file, in its order, which block of the disk it is."""
    places = unpack_sectors(data)
    found = array("I", [FREE]) * allocated
    for position, place in enumerate(places):
        if place != FREE:
            if place >= allocated or found[place] != FREE:
                raise CopyError("the map of a disk that is being filled is damaged")
            found[place] = position
    if FREE in found:
        raise CopyError("the map of a disk that is being filled is damaged")
    return found
