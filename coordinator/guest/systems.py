"""The partitions and logical volumes of the disks of a copy, and what lies in each."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from coordinator.guest.logical_volumes import LogicalVolume
from coordinator.guest.partitions import Partition, partitions
from coordinator.guest.signatures import ContentKind, Found, recognise
from coordinator.guest.volume_groups import Slot, Volumes, find_volumes
from shared.host.errors import CopyError
from shared.ova.block_errors import UnreadBlockError
from shared.ova.disk_reader import CopyReader, DiskReader


class DiskLike(Protocol):
    """A disk of a copy, or a logical volume on some of them; see `DiskReader`."""

    name: str
    size: int
    problem: str

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on. Raises `CopyError`, `NasError`."""


@dataclass(frozen=True, slots=True)
class DiskPlace:
    """A partition, a disk without any, or a logical volume, which is a disk by itself.

    `name` is what `--disk` calls it: `N.P`, `N`, or `GROUP/NAME`. If it is `listed`, it holds
    nothing but volumes that are places themselves.
    """

    name: str
    disk: DiskLike
    part: Partition
    found: Found
    listed: bool = False

    @property
    def number(self) -> str:
        """That of its disk; empty for a logical volume."""
        return "" if "/" in self.name else self.name.partition(".")[0]

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the partition, fewer at its end. Raises `CopyError`, `NasError`."""
        length = max(0, min(length, self.part.size - offset))
        return self.disk.read(self.part.start + offset, length) if length else b""


class VolumeDisk:
    """A logical volume as a disk. Safe in any thread."""

    def __init__(self, disks: Sequence[DiskReader], volume: LogicalVolume) -> None:
        self.name, self.size, self.problem = volume.name, volume.size, volume.problem
        self._disks, self._volume = disks, volume

    def read(self, offset: int, length: int) -> bytes:
        """Like `DiskReader.read`."""
        pieces = self._volume.pieces(offset, length)
        return b"".join(self._disks[disk - 1].read(at, size) for disk, at, size in pieces)


def places(copy: CopyReader, wanted: str = "") -> Iterator[DiskPlace]:
    """All of them, or those that `wanted` (`N`, `N.P` or `GROUP/NAME`) names.

    The volumes on a disk or a partition are among what that names. What is damaged, or cannot be
    read, is of an unknown kind, with what is wrong as its note. Raises `NasError`.
    """
    number = "" if "/" in wanted else wanted.partition(".")[0]
    parts = list(_parts(copy, number))
    if number and any(place.found.kind is ContentKind.LVM for place in parts):
        parts = list(_parts(copy))  # its group may have other disks
    found = volumes(parts)
    for place in parts:
        if wanted in ("", place.number, place.name):
            yield noted(place, found)
    for volume in found.found:
        numbers = {name.partition(".")[0] for name in volume.places}
        if wanted in ("", volume.name, *volume.places, *numbers):
            yield of_volume(copy, volume)


def _parts(copy: CopyReader, wanted: str = "") -> Iterator[DiskPlace]:
    """The places of all disks, or of the one with this number. Raises `NasError`."""
    for number, disk in enumerate(copy.disks, 1):
        if wanted in ("", str(number)):
            yield from of_disk(disk, number)


def of_disk(disk: DiskReader, number: int) -> Iterator[DiskPlace]:
    """The places of the disk with this number. Raises `NasError`."""
    whole = Partition(0, 0, disk.size)
    try:
        parts = partitions(disk.read, disk.size) or (whole,)
    except (CopyError, UnreadBlockError) as error:
        yield DiskPlace(str(number), disk, whole, Found(ContentKind.UNKNOWN, error.message))
        return
    for part in parts:
        name = f"{number}.{part.number}" if part.number else str(number)
        yield _recognised(DiskPlace(name, disk, part, Found(ContentKind.UNKNOWN)))


def volumes(parts: Iterable[DiskPlace]) -> Volumes:
    """The logical volumes that lie in these partitions. Raises `NasError`."""
    return find_volumes(
        Slot(place.name, int(place.number), place.part.start, place.part.size, place.read)
        for place in parts
        if place.found.kind is ContentKind.LVM
    )


def of_volume(copy: CopyReader, volume: LogicalVolume) -> DiskPlace:
    """The place that a logical volume is. Raises `NasError`."""
    disk, whole = VolumeDisk(copy.disks, volume), Partition(0, 0, volume.size)
    place = DiskPlace(volume.name, disk, whole, Found(ContentKind.LVM, volume.problem))
    return place if volume.problem else _recognised(place)


def noted(place: DiskPlace, volumes_found: Volumes) -> DiskPlace:
    """The place with what is known of the volumes that lie in it."""
    if place.found.kind is not ContentKind.LVM:
        return place
    note = volumes_found.notes.get(place.name, "its label is damaged")
    listed = place.name in volumes_found.whole
    return replace(place, found=Found(ContentKind.LVM, note), listed=listed)


def _recognised(place: DiskPlace) -> DiskPlace:
    try:
        return replace(place, found=recognise(place.read))
    except (CopyError, UnreadBlockError) as error:
        return replace(place, found=Found(ContentKind.UNKNOWN, error.message))
