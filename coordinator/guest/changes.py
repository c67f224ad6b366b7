"""Which files differ between two copies of a VM. Runs in the child process alone.

File systems are those of the same partition of the disk at the same place. A file whose size, times
and place among the inodes are the same is taken for the same; of any other the contents are
compared. Memory does not grow with the disks, but with the largest directory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from coordinator.guest import file_data
from coordinator.guest.file_systems import FileEntry, GuestFileSystem
from coordinator.guest.systems import DiskPlace, noted, of_disk, of_volume, volumes
from shared.host.errors import CopyError
from shared.ova import copy_comparison
from shared.ova.disk_reader import CopyReader

_DEEPEST: Final = 256
_MOST_NAMES: Final = 20_000_000
_CIRCLE: Final = "directories lead in a circle there"

Message = dict[str, Any]


def changes(before: CopyReader, after: CopyReader, alive: Callable[[], None]) -> Iterator[Message]:
    """A `system` for each partition, and behind it each `difference` and `problem` in it.

    `alive` is called often. Raises `NasError`.
    """
    olds, news = _by_attachment(before), _by_attachment(after)
    for where in dict.fromkeys((*olds, *news)):
        old, new = olds.get(where), news.get(where)
        why = _why_not(old, new)
        yield {
            "kind": "system",
            "place": next(place.name for place in (new, old) if place is not None),
            "disk": where[0],
            "before": str(old.found.kind) if old else "",
            "after": str(new.found.kind) if new else "",
            "why": why,
        }
        if old is not None and new is not None and not why:
            yield from _between(old, new, alive)


def _by_attachment(copy: CopyReader) -> dict[tuple[str, int], DiskPlace]:
    """The places of a copy by where their disk is attached, or by the name of their volume."""
    found = {
        (label, place.part.number): place
        for label, disk in copy_comparison.disks_by_place(copy).items()
        for place in of_disk(disk, copy.disks.index(disk) + 1)
    }
    in_groups = volumes(found.values())
    found = {where: noted(place, in_groups) for where, place in found.items()}
    for volume in in_groups.found:
        found[(f"volume {volume.name}", 0)] = of_volume(copy, volume)
    return {where: each for where, each in found.items() if each.name not in in_groups.whole}


def _why_not(old: DiskPlace | None, new: DiskPlace | None) -> str:
    """Why the files of a partition are not compared; empty: they are."""
    if old is None or new is None:
        return "it is new" if old is None else "it is gone"
    for place, when in ((old, "before"), (new, "after")):
        if place.found.kind.encrypted:
            return f"it is encrypted ({place.found.kind})"
        if not place.found.kind.readable:
            note = f": {place.found.note}" if place.found.note else ""
            return f"{place.found.kind} is not read ({when}){note}"
    return ""


def _between(old: DiskPlace, new: DiskPlace, alive: Callable[[], None]) -> Iterator[Message]:
    opened = []
    for place, when in ((old, "before"), (new, "after")):
        try:
            opened.append(
                GuestFileSystem(place.disk, place.part.start, place.part.size, place.found.kind)
            )
        except CopyError as error:
            yield _problem((), f"{when}: {error.message}")
    if len(opened) == len((old, new)):
        yield from _Trees(opened[0], opened[1], alive).differences()


@dataclass(slots=True)
class _Side:
    """One of the two file systems, and which of its directories were looked at."""

    when: str
    system: GuestFileSystem
    seen: set[int] = field(default_factory=set)
    names: int = 0

    def look(self, directory: FileEntry | None, depth: int) -> tuple[dict[str, FileEntry], str]:
        """What is in a directory, by name, and why that is not all."""
        found: dict[str, FileEntry] = {}
        if directory is None:
            return found, ""
        if directory.address in self.seen or depth >= _DEEPEST:
            return found, _CIRCLE
        self.seen.add(directory.address)
        try:
            for entry in self.system.entries(directory):
                found[_text(entry.name)] = entry
        except CopyError as error:
            return found, error.message
        self.names += len(found)
        return found, "there are too many names" if self.names > _MOST_NAMES else ""


class _Trees:
    """Two file systems, from the root down: each directory once, whatever leads to it."""

    def __init__(
        self, old: GuestFileSystem, new: GuestFileSystem, alive: Callable[[], None]
    ) -> None:
        self._old, self._new, self._alive = _Side("before", old), _Side("after", new), alive

    def differences(self) -> Iterator[Message]:
        """What differs, one directory after the other."""
        waiting: list[tuple[tuple[str, ...], FileEntry | None, FileEntry | None]]
        waiting = [((), self._old.system.root, self._new.system.root)]
        while waiting:
            path, one, other = waiting.pop()
            olds, unread = self._old.look(one, len(path))
            news, unread_now = self._new.look(other, len(path))
            for side, problem in ((self._old, unread), (self._new, unread_now)):
                if problem:
                    yield _problem(path, f"{side.when}: {problem}")
            below = []
            for name in sorted({*olds, *news}):
                self._alive()
                pair = olds.get(name), news.get(name)
                if (pair[0] is None and unread) or (pair[1] is None and unread_now):
                    continue  # whether it was or is there is not known, which was said
                yield from self._of_pair((*path, name), *pair)
                if directories := _directories(*pair):
                    below.append(((*path, name), *directories))
            waiting += reversed(below)

    def _of_pair(
        self, path: tuple[str, ...], one: FileEntry | None, other: FileEntry | None
    ) -> Iterator[Message]:
        if problem := (one and one.problem) or (other and other.problem):
            yield _problem(path, problem)
            return
        if one is None or other is None:
            yield _difference(path, "removed" if other is None else "added", one, other)
            return
        try:
            details = self._details(one, other)
        except CopyError as error:
            yield _problem(path, error.message)
            return
        if details:
            inside = {"type", "content", "target"}.intersection(details)
            yield _difference(path, "changed" if inside else "attributes", one, other, details)

    def _details(self, one: FileEntry, other: FileEntry) -> list[str]:
        """What differs between two things of one name. Raises `CopyError`."""
        if one.type != other.type:
            return ["type"]
        found = {
            "content": one.type == "file" and self._other_content(one, other),
            "target": one.target != other.target,
            "mode": one.mode != other.mode,
            "owner": one.owner != other.owner,
            # that of a directory is told by what was added or removed
            "modified": one.type != "directory" and one.modified != other.modified,
        }
        return [name for name, differs in found.items() if differs]

    def _other_content(self, one: FileEntry, other: FileEntry) -> bool:
        if one.size != other.size:
            return True
        if _identity(one) == _identity(other):
            return False
        contents = self._old.system.open(one), self._new.system.open(other)
        return not file_data.same(*contents, self._alive)


def _identity(entry: FileEntry) -> tuple[int, int, int]:
    """What does not stay when a file is written."""
    return entry.address, entry.modified, entry.changed


def _directories(
    one: FileEntry | None, other: FileEntry | None
) -> tuple[FileEntry | None, FileEntry | None] | None:
    """Those of the two that are directories; None if none is."""
    found = tuple(each if each and each.type == "directory" else None for each in (one, other))
    return (found[0], found[1]) if any(found) else None


def _difference(
    path: tuple[str, ...],
    what: str,
    one: FileEntry | None,
    other: FileEntry | None,
    details: list[str] | None = None,
) -> Message:
    seen = other or one
    return {
        "kind": "difference",
        "path": "/" + "/".join(path),
        "what": what,
        "type_of_file": seen.type if seen else "",
        "size_before": one.size if one else None,
        "size_after": other.size if other else None,
        "details": details or [],
    }


def _problem(path: tuple[str, ...], text: str) -> Message:
    return {"kind": "problem", "path": "/" + "/".join(path), "text": text}


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
