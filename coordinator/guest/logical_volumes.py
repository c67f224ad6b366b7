"""Where the bytes of LVM's logical volumes are: those that lie in pieces on the disks themselves.

Those that need more than looking a place up (thin, RAID, mirrors, caches, snapshots) are named, and
not read. What describes them was written by a guest: what leads outside, overlaps the size of its
group, or contradicts itself is a problem of that volume or group, never another's bytes.
"""

import bisect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from coordinator.guest.lvm_text import Section
from coordinator.guest.place_names import folder_name

SECTOR: Final = 512
_MOST_SEGMENTS: Final = 100_000
_LEAST_STRIPE: Final = 8 * SECTOR
_NAME: Final = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,126}")
#: So long a name of device-mapper may be, in which both names are.
_LONGEST: Final = 127


class VolumeError(ValueError):
    """Why a volume, or a whole group, is not read."""


@dataclass(frozen=True, slots=True)
class Extents:
    """A physical volume of a group: where on which disk its data begins, and how long that is."""

    place: str
    disk: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _Segment:
    """Bytes of a volume that lie in turns of `stripe` bytes in some places, each (disk, start)."""

    start: int
    stripe: int
    areas: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """A volume of `size` bytes, called `GROUP/NAME`; `problem` says why it is not read.

    `places` are the partitions on which it lies.
    """

    name: str
    size: int = 0
    segments: tuple[_Segment, ...] = ()
    places: frozenset[str] = frozenset()
    problem: str = ""

    def pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Where these bytes lie: number of the disk, offset there, and length of each piece."""
        length = max(0, min(length, self.size - offset))
        while length > 0:
            number = bisect.bisect_right(self.segments, offset, key=lambda each: each.start) - 1
            segment = self.segments[number]
            last = number + 1 == len(self.segments)
            end = self.size if last else self.segments[number + 1].start
            turn, inside = divmod(offset - segment.start, segment.stripe)
            disk, start = segment.areas[turn % len(segment.areas)]
            most = min(length, segment.stripe - inside, end - offset)
            yield disk, start + turn // len(segment.areas) * segment.stripe + inside, most
            offset, length = offset + most, length - most


@dataclass(frozen=True, slots=True)
class Group:
    """A volume group as its description has it, with its `disks`, by their names there.

    None stands for one that is not in the copy.
    """

    name: str
    described: Section
    extent_bytes: int
    disks: Mapping[str, Extents | None] = field(default_factory=dict)

    def volumes(self) -> Iterator[LogicalVolume]:
        """Those that a user sees, as far as their names are names. Raises `VolumeError`."""
        all_of_them = self.described.get("logical_volumes", {})
        copied = _snapshots(all_of_them)
        for name, described in sections(all_of_them):
            if "VISIBLE" not in words(described, "status") and name not in copied:
                continue  # a part of another one
            full = f"{self.name}/{name}"
            if not is_name(name):
                continue
            try:
                if len(folder_name(full)) > _LONGEST:
                    raise VolumeError("its name is too long")
                if name in copied:
                    raise VolumeError("it is a snapshot, or one is merged into it")
                yield self._volume(full, described)
            except VolumeError as error:
                places = frozenset(disk.place for disk in self.disks.values() if disk)
                yield LogicalVolume(full, places=places, problem=str(error))

    def _volume(self, name: str, described: Section) -> LogicalVolume:
        segments, size, used = list[_Segment](), 0, set[str]()
        for number in range(1, positive(described, "segment_count", _MOST_SEGMENTS) + 1):
            segment = described.get(f"segment{number}")
            if not isinstance(segment, dict):
                raise VolumeError("its description lacks a segment")
            if natural(segment, "start_extent") * self.extent_bytes != size:
                raise VolumeError("its segments do not follow each other")
            count = positive(segment, "extent_count")
            segments.append(self._segment(segment, size, count, used))
            size += count * self.extent_bytes
        sizes = {disk.place: disk.size for disk in self.disks.values() if disk}
        if size > sum(sizes.values()):
            raise VolumeError("it is larger than its group")
        places = frozenset(disk.place for on in used if (disk := self.disks[on]))
        return LogicalVolume(name, size, tuple(segments), places)

    def _segment(self, segment: Section, start: int, count: int, used: set[str]) -> _Segment:
        kind = segment.get("type")
        if kind not in ("striped", "linear"):
            shown = kind if isinstance(kind, str) and is_name(kind) else "unknown"
            raise VolumeError(f"volumes of the type {shown} are not read")
        stripes, width = segment.get("stripes"), positive(segment, "stripe_count")
        if not isinstance(stripes, tuple) or len(stripes) != 2 * width or count % width:
            raise VolumeError("its stripes are not described")
        each = count // width * self.extent_bytes
        areas = []
        for on, first in zip(stripes[::2], stripes[1::2], strict=True):
            areas.append(self._area(on, first, each))
            used.add(str(on))
        stripe = positive(segment, "stripe_size") * SECTOR if width > 1 else each
        if stripe < min(_LEAST_STRIPE, each) or each % stripe:
            raise VolumeError("its stripes cannot be as large as that")
        return _Segment(start, stripe, tuple(areas))

    def _area(self, on: object, first: object, size: int) -> tuple[int, int]:
        if on not in self.disks:
            raise VolumeError("it lies on other volumes, and is not read")
        found = self.disks[str(on)]
        if found is None:
            raise VolumeError("a part of it lies on a disk that is not in the copy, or twice")
        if not isinstance(first, int) or first < 0:
            raise VolumeError("its stripes are not described")
        at = first * self.extent_bytes
        if at + size > found.size:
            raise VolumeError("a part of it lies outside its disk")
        return found.disk, found.start + at


def is_name(name: str) -> bool:
    """Whether LVM would let a group or a volume be called so."""
    return bool(_NAME.fullmatch(name)) and name not in (".", "..")


def sections(described: object) -> Iterator[tuple[str, Section]]:
    """The sections in one, by name."""
    if isinstance(described, dict):
        for name, each in described.items():
            if isinstance(each, dict):
                yield name, each


def sections_named(described: Section, name: str) -> dict[str, Section]:
    """The sections in that one."""
    return dict(sections(described.get(name)))


def natural(section: Section, name: str, most: int = 1 << 40) -> int:
    """A number that is not negative. Raises `VolumeError`."""
    found: Any = section.get(name)
    if not isinstance(found, int) or not 0 <= found <= most:
        raise VolumeError(f"its description lacks {name}")
    return found


def positive(section: Section, name: str, most: int = 1 << 40) -> int:
    """A number above 0. Raises `VolumeError`."""
    found = natural(section, name, most)
    if not found:
        raise VolumeError(f"its description lacks {name}")
    return found


def words(section: Section, name: str) -> tuple[object, ...]:
    """The words of a list."""
    found = section.get(name)
    return found if isinstance(found, tuple) else (found,)


def _snapshots(all_of_them: object) -> set[str]:
    """Volumes that are not what lies in them: what a snapshot keeps, and what one is merged into.

    That a snapshot was made of a volume changes nothing of the volume itself.
    """
    found = set[str]()
    for _, described in sections(all_of_them):
        for _, segment in sections(described):
            if segment.get("type") == "snapshot":
                named = [
                    "cow_store",
                    "merging_store",
                    *(["origin"] if "merging_store" in segment else []),
                ]
                found |= {name for each in named if isinstance(name := segment.get(each), str)}
    return found
