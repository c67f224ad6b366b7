"""What differs between the disks of two copies: by their indexes, or by reading both.

Two indexes are compared from front to end, without a look at the copies: a block has changed if its
compressed bytes have. Memory does not grow with the disks.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from shared.host.errors import CopyError, VBoxManageError
from shared.ova.disk_reader import CopyReader, DiskReader
from shared.ova.index import GrainIndex, IndexRecord
from shared.ova.ovf import disk_files
from shared.ova.vmdk import GRAIN

#: Told bytes done and bytes in all.
Progress = Callable[[int, int], None]

_AT_ONCE: Final = 16 * GRAIN
_ZEROS: Final = bytes(GRAIN)


@dataclass(frozen=True, slots=True)
class DiskDifference:
    """How a disk differs, in blocks of 64 KiB.

    `disk` is where it is attached (`SATA-0-0`), or its number. A size is None if that copy has no
    such disk. `appeared` were zeros before, `vanished` are zeros now, `changed` are others.
    `problem` says why the disk could not be compared, while others were.
    """

    disk: str
    size_before: int | None
    size_after: int | None
    changed: int = 0
    appeared: int = 0
    vanished: int = 0
    problem: str = ""

    @property
    def blocks(self) -> int:
        """How many blocks differ."""
        return self.changed + self.appeared + self.vanished

    @property
    def bytes(self) -> int:
        """How many bytes these blocks have."""
        return self.blocks * GRAIN


def disks_by_place(copy: CopyReader) -> dict[str, DiskReader]:
    """The disks of a copy by where they are attached; by number, if its description is strange."""
    try:
        described = disk_files(copy.member(next(iter(copy.names), "")))
        labels = {file.name: file.attachment.label for file in described}
    except (CopyError, VBoxManageError):
        labels = {}
    return {labels.get(disk.name, str(number)): disk for number, disk in enumerate(copy.disks, 1)}


def why_read(before: CopyReader, after: CopyReader) -> str:
    """Why the copies have to be read; empty if their indexes tell all."""
    for copy in (before, after):
        if copy.index is None:
            return f"{copy.path.name}: {copy.index_problem}"
        if not all(disk.indexed or disk.problem for disk in copy.disks):
            return f"{copy.path.name}: its index lacks a disk"
    return ""


def compare_indexes(before: CopyReader, after: CopyReader) -> list[DiskDifference]:
    """The differences by the indexes, which both copies must have. Raises `CopyError`."""
    return [
        _count(name, old, new, _pairs_of_records(before.index, old, after.index, new))
        for name, old, new in _disks(before, after)
    ]


def compare_contents(
    before: CopyReader, after: CopyReader, progress: Progress
) -> list[DiskDifference]:
    """The differences by all that both copies hold.

    Raises `DamagedBlockError`, `UnreadBlockError` for what cannot be read.
    """
    total, done, found = bytes_to_read(before, after), 0, []

    def report(length: int) -> None:
        nonlocal done
        done += length
        progress(min(done, total), total)

    for name, old, new in _disks(before, after):
        found.append(_count(name, old, new, _pairs_of_blocks(old, new, report)))
    return found


def bytes_to_read(before: CopyReader, after: CopyReader) -> int:
    """How many bytes of the disks a comparison by contents looks at."""
    return sum(
        length
        for copy in (before, after)
        for disk in copy.disks
        if not disk.problem
        for _, length in disk.runs()
    )


def _disks(
    before: CopyReader, after: CopyReader
) -> Iterator[tuple[str, DiskReader | None, DiskReader | None]]:
    old, new = disks_by_place(before), disks_by_place(after)
    for name in dict.fromkeys((*old, *new)):
        yield name, old.get(name), new.get(name)


def _count(
    name: str,
    old: DiskReader | None,
    new: DiskReader | None,
    pairs: Iterator[tuple[bool, bool]],
) -> DiskDifference:
    """`pairs` say of each block that differs whether there was something, and is now."""
    problem = next((disk.problem for disk in (old, new) if disk and disk.problem), "")
    if problem:
        was, now = (disk.size if disk and not disk.problem else None for disk in (old, new))
        return DiskDifference(name, was, now, problem=problem)
    counts = {(True, True): 0, (False, True): 0, (True, False): 0}
    for pair in pairs:
        counts[pair] += 1
    return DiskDifference(
        name,
        old.size if old else None,
        new.size if new else None,
        counts[True, True],
        counts[False, True],
        counts[True, False],
    )


def _pairs_of_records(
    before: GrainIndex | None,
    old: DiskReader | None,
    after: GrainIndex | None,
    new: DiskReader | None,
) -> Iterator[tuple[bool, bool]]:
    olds, news = _records(before, old), _records(after, new)
    one, other = next(olds, None), next(news, None)
    while one or other:
        if other is None or (one is not None and one.grain < other.grain):
            yield True, False
            one = next(olds, None)
        elif one is None or other.grain < one.grain:
            yield False, True
            other = next(news, None)
        else:
            if one.digest != other.digest:
                yield True, True
            one, other = next(olds, None), next(news, None)


def _records(index: GrainIndex | None, disk: DiskReader | None) -> Iterator[IndexRecord]:
    if index is not None and disk is not None and disk.section is not None:
        yield from index.records(disk.section)


def _pairs_of_blocks(
    old: DiskReader | None, new: DiskReader | None, report: Callable[[int], None]
) -> Iterator[tuple[bool, bool]]:
    disks: Sequence[DiskReader] = [disk for disk in (old, new) if disk is not None]
    for start, end in _merged(disks):
        for position in range(start, end, _AT_ONCE):
            length = min(_AT_ONCE, end - position)
            one, other = (_read(disk, position, length) for disk in (old, new))
            for offset in range(0, length, GRAIN):
                block, now = one[offset : offset + GRAIN], other[offset : offset + GRAIN]
                if block != now:
                    yield block != _ZEROS, now != _ZEROS
            report(length * len(disks))


def _read(disk: DiskReader | None, position: int, length: int) -> bytes:
    data = disk.read(position, length) if disk is not None else b""
    return data.ljust(length, b"\0")


def _merged(disks: Sequence[DiskReader]) -> Iterator[tuple[int, int]]:
    """Where any of the disks holds something, in whole blocks, in order."""
    start = end = 0
    for offset, length in heapq.merge(*(disk.runs() for disk in disks)):
        first, last = offset // GRAIN * GRAIN, -(-(offset + length) // GRAIN) * GRAIN
        if first > end:
            if end > start:
                yield start, end
            start = first
        end = max(end, last)
    if end > start:
        yield start, end
