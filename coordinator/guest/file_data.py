"""What is in one file of a guest: where it has data, and its bytes. Runs in the child alone."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from coordinator.guest.signatures import ContentKind
from shared.host.errors import CopyError

#: What is read at once, and the unit in which zeros are passed over.
CHUNK: Final = 1 << 20
_REPARSE: Final = 0xC0
_DATA: Final = (1, 0x80)
_HOLE: Final = 1 | 2
_FILLER: Final = 1
_ENCRYPTED: Final = 0x10
_COMPRESSED: Final = 0x20
_NOT_RESIDENT: Final = 0x2
#: What Windows keeps elsewhere than in the file's data, by the tag of its reparse point.
_ELSEWHERE: Final = {
    0x80000017: "Windows has compressed it in a way that is not read here (CompactOS)",
    0x80000013: "Windows has deduplicated it, which is not read here",
    0xA0000003: "it is a link (junction)",
    0xA000000C: "it is a link",
}


@dataclass(frozen=True, slots=True)
class FileData:
    """A file of `size` bytes, which `file` of the library reads.

    `spend` is told how many bytes are read and raises `CopyError` if that is too many; `problem`
    says, and forgets, what could not be read of the disk.
    """

    file: Any
    size: int
    kind: ContentKind
    width: int
    spend: Callable[[int], None]
    problem: Callable[[], str]

    def extents(self) -> list[tuple[int, int]]:
        """Where it has data, in order. What is between is zeros, as the guest sees them.

        Raises `CopyError` for a file whose contents are elsewhere.
        """
        ranges = [(0, self.size)]
        try:
            for attribute in self.file:
                kind, flags = int(attribute.info.type), int(attribute.info.flags)
                if kind == _REPARSE and self.kind is ContentKind.NTFS:
                    raise CopyError(_reparse(self.file, attribute))
                if kind not in _DATA or attribute.info.name:
                    continue
                if flags & _ENCRYPTED:
                    raise CopyError(
                        "Windows has encrypted it (EFS): it is of no use without the key"
                    )
                if flags & _NOT_RESIDENT and not flags & _COMPRESSED:
                    ranges = self._runs(attribute)
        except (OSError, RuntimeError) as error:
            raise CopyError(self.problem() or words(error)) from None
        return ranges

    def read(self, position: int, length: int) -> bytes:
        """So many bytes, which it must have. Raises `CopyError`."""
        self.spend(length)
        try:
            data = bytes(self.file.read_random(position, length))
        except (OSError, RuntimeError) as error:
            raise CopyError(self.problem() or words(error)) from None
        problem = self.problem()
        if len(data) != length or problem:
            raise CopyError(problem or "it ends before its size")
        return data

    def _runs(self, attribute: Any) -> list[tuple[int, int]]:  # noqa: ANN401
        found = []
        for run in attribute:
            flags = int(run.flags)
            if flags & _FILLER and self.kind not in (
                ContentKind.EXT2,
                ContentKind.EXT3,
                ContentKind.EXT4,
            ):
                raise CopyError("where a part of it lies is not known")
            begin, end = run.offset * self.width, (run.offset + run.len) * self.width
            if not flags & _HOLE and begin < self.size:
                found.append((begin, min(self.size, end)))
        return sorted(found)


def same(one: FileData, other: FileData, alive: Callable[[], None]) -> bool:
    """Whether two files have the same bytes; `alive` is called now and then meanwhile.

    Reads both up to the first difference. Raises `CopyError` if one cannot be read.
    """
    if one.size != other.size:
        return False
    position = 0
    for begin, end in heapq.merge(one.extents(), other.extents()):
        for start in range(max(begin, position), end, CHUNK):
            length = min(CHUNK, end - start)
            if one.read(start, length) != other.read(start, length):
                return False
            alive()
        position = max(position, end)
    return True


def pieces(data: FileData) -> Iterator[tuple[int, bytes]]:
    """What it has, by position. Raises `CopyError` where it cannot be read."""
    for begin, end in data.extents():
        for position in range(begin, end, CHUNK):
            yield position, data.read(position, min(CHUNK, end - position))


def words(error: Exception) -> str:
    """What the library says, without where in its code."""
    last = str(error).strip().splitlines()[-1:] or [""]
    return f"its file system is damaged, or of a kind that is not read: {last[0][-200:]}"


def _reparse(file: Any, attribute: Any) -> str:  # noqa: ANN401 - objects of the library
    try:
        head = file.read_random(0, 4, attribute.info.type, attribute.info.id)
        tag = int.from_bytes(head, "little")
    except (OSError, RuntimeError):
        tag = 0
    return _ELSEWHERE.get(tag, f"Windows keeps its contents elsewhere (reparse point {tag:#x})")
