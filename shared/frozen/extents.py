"""Where the bytes of a file lie on its file system: FIEMAP, and how far two clones differ by it.

Two clones of one file, both of which nobody writes, share the blocks that did not change between
them. The older one still holds its blocks, so none of them was given to anything else: where both
have the same place, they have the same bytes. The other way round nothing follows.

Not every extent says that much. Those that are compressed (two different contents with the same
answer were made), inline, not yet allocated or not aligned prove nothing; where one of the clones
has such a one, the bytes themselves have to be compared. Blocks that are allocated, but were never
written, are zeros like a hole.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from errno import EIO
from typing import Final

_FIEMAP: Final = 0xC020660B
#: start, length, flags, mapped extents, room for extents, reserved.
_HEAD: Final = struct.Struct("=QQIIII")
#: logical, physical, length, reserved, flags, reserved.
_EXTENT: Final = struct.Struct("=QQQ16xI12x")
_BATCH: Final = 4096
_SYNC: Final = 1
_EVERYTHING: Final = 2**64 - 1

LAST: Final = 0x1
UNKNOWN: Final = 0x2
DELALLOC: Final = 0x4
ENCODED: Final = 0x8
ENCRYPTED: Final = 0x80
NOT_ALIGNED: Final = 0x100
INLINE: Final = 0x200
TAIL: Final = 0x400
UNWRITTEN: Final = 0x800
MERGED: Final = 0x1000
SHARED: Final = 0x2000
#: What may be said of an extent whose place is believed. Any other word of it, known or not, makes
#: it one that proves nothing.
_HARMLESS: Final = LAST | UNWRITTEN | MERGED | SHARED


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes `start` to `end` of a file lie together from `physical` on.

    `flags` are those of Linux.
    """

    start: int
    end: int
    physical: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `start` to `end` of a file."""

    start: int
    end: int


def read_extents(descriptor: int) -> Iterator[Extent]:
    """The extents of a file in its order; what is not among them is a hole.

    Data that is on its way to the disk is waited for. Raises OSError where the file system does
    not tell.
    """
    from fcntl import ioctl

    position, flags = 0, 0
    while not flags & LAST:
        request = bytearray(_HEAD.size + _EXTENT.size * _BATCH)
        _HEAD.pack_into(request, 0, position, _EVERYTHING - position, _SYNC, 0, _BATCH, 0)
        ioctl(descriptor, _FIEMAP, request)
        count = _HEAD.unpack_from(request)[3]
        if not count:
            return
        found = memoryview(request)[_HEAD.size : _HEAD.size + count * _EXTENT.size]
        for logical, physical, length, flags in _EXTENT.iter_unpack(found):
            if logical + length <= position:
                raise OSError(EIO, "the file system tells extents that go back")
            position = logical + length
            yield Extent(logical, position, physical, flags)


def count_extents(descriptor: int) -> int:
    """How many extents a file has, without reading them. Raises OSError."""
    from fcntl import ioctl

    request = bytearray(_HEAD.pack(0, _EVERYTHING, 0, 0, 0, 0))
    ioctl(descriptor, _FIEMAP, request)
    return int(_HEAD.unpack(request)[3])


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes `start` to `end`. `place` is where they lie, relative to where they are in the file.

    None: zeros. `proves`: whether the same place means the same bytes.
    """

    start: int
    end: int
    place: int | None
    proves: bool = True


@dataclass(frozen=True, slots=True)
class Comparison:
    """What of the newer of two clones may differ from the older one, in the order of the file.

    `differing` lies elsewhere, or was not there: it counts as changed. Of `unproven` the extents
    say nothing: its bytes have to be compared. Everything else has the same bytes.
    """

    differing: tuple[Span, ...]
    unproven: tuple[Span, ...]


def compare(
    old: Sequence[Extent], old_size: int, new: Sequence[Extent], new_size: int
) -> Comparison:
    """Compares two clones of one file system that nobody writes, by their extents. Pure.

    Sizes in bytes. Extents that overlap or go back, which no file system has, prove nothing.
    """
    differing: list[Span] = []
    unproven: list[Span] = []
    left = _pieces(old, old_size)
    before = next(left, None)
    for piece in _pieces(new, new_size):
        start = piece.start
        while start < piece.end:
            while before and before.end <= start:
                before = next(left, None)
            if before is None:
                _add(differing, start, piece.end)
                break
            end = min(piece.end, before.end)
            if not (piece.proves and before.proves):
                _add(unproven, start, end)
            elif piece.place != before.place:
                _add(differing, start, end)
            start = end
    return Comparison(tuple(differing), tuple(unproven))


def _pieces(extents: Sequence[Extent], size: int) -> Iterator[_Piece]:
    """What covers the bytes 0 to `size` without a gap."""
    if not _in_order(extents):
        yield from [_Piece(0, size, None, proves=False)] if size else []
        return
    position = 0
    for extent in extents:
        if extent.start >= size:
            break
        if extent.start > position:
            yield _Piece(position, extent.start, None)
        position = min(extent.end, size)
        zeros = extent.flags & UNWRITTEN
        yield _Piece(
            extent.start,
            position,
            None if zeros else extent.physical - extent.start,
            proves=not extent.flags & ~_HARMLESS,
        )
    if position < size:
        yield _Piece(position, size, None)


def _in_order(extents: Sequence[Extent]) -> bool:
    position = 0
    for extent in extents:
        if extent.start < position or extent.end <= extent.start:
            return False
        position = extent.end
    return True


def _add(spans: list[Span], start: int, end: int) -> None:
    if spans and spans[-1].end == start:
        spans[-1] = Span(spans[-1].start, end)
    else:
        spans.append(Span(start, end))
