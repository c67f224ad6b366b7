"""The partitions of the disks of a copy, and what lies in each."""

from collections.abc import Iterator
from dataclasses import dataclass

from coordinator.guest.partitions import Partition, partitions
from coordinator.guest.signatures import ContentKind, Found, recognise
from shared.host.errors import CopyError
from shared.ova.disk_reader import CopyReader, DiskReader


@dataclass(frozen=True, slots=True)
class DiskPlace:
    """A partition, or a disk without any: `name` is what `--disk` calls it, `N.P` or `N`."""

    name: str
    disk: DiskReader
    part: Partition
    found: Found


def places(copy: CopyReader, wanted: str = "") -> Iterator[DiskPlace]:
    """All of them, or those that `wanted` (`N` or `N.P`) names.

    What is damaged is of an unknown kind, with what is wrong as its note. Raises `NasError`.
    """
    for number, disk in enumerate(copy.disks, 1):
        if not wanted or wanted.partition(".")[0] == str(number):
            for place in of_disk(disk, number):
                if wanted in ("", str(number), place.name):
                    yield place


def of_disk(disk: DiskReader, number: int) -> Iterator[DiskPlace]:
    """The places of the disk with this number. Raises `NasError`."""
    whole = Partition(0, 0, disk.size)
    try:
        parts = partitions(disk.read, disk.size) or (whole,)
    except CopyError as error:
        yield DiskPlace(str(number), disk, whole, Found(ContentKind.UNKNOWN, error.message))
        return
    for part in parts:
        name = f"{number}.{part.number}" if part.number else str(number)
        yield DiskPlace(name, disk, part, _recognised(disk, part))


def _recognised(disk: DiskReader, part: Partition) -> Found:
    def read(offset: int, length: int) -> bytes:
        length = max(0, min(length, part.size - offset))
        return disk.read(part.start + offset, length) if length else b""

    try:
        return recognise(read)
    except CopyError as error:
        return Found(ContentKind.UNKNOWN, error.message)
