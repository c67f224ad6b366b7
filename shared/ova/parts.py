"""What an `.ova` is made of, by digests that were made when its bytes were.

A copy that took grains over from the one before it was not read by anybody when it was made, so
that nobody knows its SHA-256. These are what it is compared with instead when it is read for the
first time: for each grain of a disk its digest in the index, for everything else the digests here.
A digest that is computed from what lies on the NAS is never its own proof.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Final, NamedTuple

from shared.host.document_fields import FROM_JSON, Count, Sha256
from shared.host.documents import Document
from shared.host.errors import CopyError
from shared.ova import tar
from shared.ova.grain_columns import GrainColumns
from shared.ova.index import GrainIndex
from shared.ova.vmdk import SECTOR

#: Longer than anything between two grains: the directory of a disk of 2 TiB has 256 KiB.
_LONGEST: Final = 64 << 20
#: What belongs to no member: tar headers, what fills them up, and the end.
_FRAME: Final = -1


@dataclass(frozen=True, slots=True)
class Part(Document):
    """One member: its bytes are at `position` of the `.ova`.

    `place` is where a disk is attached whose grains are in the index; `sha256` is then that of all
    its other bytes, one after the other.
    """

    name: str
    position: Count
    size: Count
    sha256: Sha256
    place: str = ""


@dataclass(frozen=True, slots=True)
class Parts(Document):
    """All members in their order; `frame` is the SHA-256 of everything outside of them."""

    frame: Sha256
    members: Annotated[tuple[Part, ...], FROM_JSON]

    @property
    def digest(self) -> str:
        """One digest for all of them."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class MadeParts:
    """What the engine knows of a copy that it has written and that nobody has read.

    `copied` are the ranges (position, length) that the NAS copied from the copy before.
    """

    parts: Parts
    copied: tuple[tuple[int, int], ...]


class Segment(NamedTuple):
    """Bytes of the `.ova` from `start` to `end` that one digest is known for.

    `grain` is its number in its disk; -1: it is none, but belongs to `group`, the number of a
    member or -1 for the frame, which have one digest for all such segments together.
    """

    start: int
    end: int
    group: int
    grain: int = -1
    digest: bytes = b""


class Stretch(NamedTuple):
    """Grains of the disk with the number `group` that follow each other without a gap.

    `starts` is where each begins in the `.ova`, and after the last one where that ends.
    """

    group: int
    starts: tuple[int, ...]
    grains: GrainColumns

    def segments(self, first: int, end: int) -> Iterator[Segment]:
        """Those from the place `first` to before `end`."""
        numbers, digests, starts = self.grains.numbers, self.grains.digests, self.starts
        for at in range(first, end):
            yield Segment(starts[at], starts[at + 1], self.group, numbers[at], digests[at])


def segments(parts: Parts, index: GrainIndex, size: int) -> Iterator[Segment]:
    """The whole `.ova` of so many bytes in its order, without a gap.

    Raises `CopyError` if parts and index do not describe a file of that size.
    """
    for found in stretches(parts, index, size):
        if isinstance(found, Segment):
            yield found
        else:
            yield from found.segments(0, len(found.grains.numbers))


def stretches(parts: Parts, index: GrainIndex, size: int) -> Iterator[Segment | Stretch]:
    """The same with grains in stretches. Raises like `segments`."""
    at = 0
    for number, part in enumerate(parts.members):
        if part.position != -(-at // tar.BLOCK) * tar.BLOCK + tar.BLOCK:
            raise CopyError("its parts do not follow each other")
        yield Segment(at, part.position, _FRAME)
        at = part.position + part.size
        if part.place:
            yield from _of_disk(number, part, index)
        elif part.size > _LONGEST:
            raise CopyError(f"{part.name!r} is impossibly long ({part.size} bytes)")
        else:
            yield Segment(part.position, at, number)
    if not at < size <= at + _LONGEST:
        raise CopyError(f"its parts make no file of {size} bytes")
    yield Segment(at, size, _FRAME)


def _of_disk(number: int, part: Part, index: GrainIndex) -> Iterator[Segment | Stretch]:
    section = index.section(part.place)
    if section is None or section.position != part.position:
        raise CopyError(f"its index does not have the disk {part.name!r}")
    at, end = part.position, part.position + part.size
    for columns in index.columns(section):
        for grains in columns.adjoining():
            starts = tuple([part.position + sector * SECTOR for sector in grains.sectors])
            after = starts[-1] + grains.lengths[-1] * SECTOR
            if not (at <= starts[0] and min(grains.lengths) > 0 and after <= end) or (
                starts[0] - at > _LONGEST
            ):
                raise CopyError(f"its index does not fit to the disk {part.name!r}")
            if at < starts[0]:
                yield Segment(at, starts[0], number)
            yield Stretch(number, (*starts, after), grains)
            at = after
    if at < end:
        yield Segment(at, end, number)


class PartSums:
    """Adds up what was read of the segments, and compares it with the digests in the end."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._sums = [hashlib.sha256() for _ in (*parts.members, parts.frame)]

    def add(self, segment: Segment, data: memoryview) -> None:
        """The next bytes that are no grain."""
        self._sums[segment.group].update(data)

    def finish(self) -> None:
        """Raises `CopyError` if something is not what was written."""
        expected: Sequence[tuple[str, str]] = [
            *((repr(part.name), part.sha256) for part in self._parts.members),
            ("the frame of the .ova", self._parts.frame),
        ]
        for (name, sha256), found in zip(expected, self._sums, strict=True):
            if found.hexdigest() != sha256:
                raise CopyError(f"{name} is not what was written")
