"""The note of a swap of disks, on this host: what of a VM was about to become what.

It is made before anything is moved, so that whoever finds a swap that was broken off knows what is
to become of it (`disk_swap`).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from shared.host.document_fields import FROM_JSON, Count, FieldCheck
from shared.host.documents import Document
from shared.host.errors import ConfigurationError
from shared.host.notes import Note

_PREFIX: Final = "into-"


def _is_path(text: str) -> bool:
    try:
        return os.path.isabs(text) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


_Path = Annotated[str, FieldCheck(_is_path, "no path of a file")]


@dataclass(frozen=True, slots=True)
class SwappedDisk(Document):
    """One disk: its place, and where the new one and the old one are while they are not there.

    `before` and `after` are the inodes of the old and the new one; 0: the new one is not whole yet.
    `sign` is size and time of the new one, when nobody had used it; empty: that is not known.
    """

    place: _Path
    new: _Path
    old: _Path
    before: Count
    after: Count = 0
    sign: str = ""


@dataclass(frozen=True, slots=True)
class Swap(Document):
    """The VM `uuid`, called `name`, gets the disks of its copy `stamp`.

    `done`: when all were in place; empty: not yet. `started`: when the VM had been started or
    stopped last, as its settings had it then. `undoing`: since when it gets its old disks again;
    empty: it does not. An older program leaves alone what is done, this included.
    """

    uuid: str
    name: str
    stamp: str
    disks: Annotated[tuple[SwappedDisk, ...], FROM_JSON, FieldCheck(bool, "empty")]
    done: str = ""
    started: str = ""
    undoing: str = ""

    @property
    def way_back(self) -> "Swap":
        """The same the other way round: the old disks in the place of the new ones."""
        disks = (
            SwappedDisk(disk.place, disk.old, disk.new, disk.after, disk.before)
            for disk in self.disks
        )
        return replace(self, disks=tuple(disks))


@dataclass(frozen=True, slots=True)
class SwapNote:
    """Where a swap of the disks of one VM is noted on this host."""

    path: Path

    @classmethod
    def of(cls, state_directory: Path, uuid: str) -> "SwapNote":
        """That of a VM."""
        return cls(state_directory / f"{_PREFIX}{uuid}.json")

    @property
    def lock(self) -> str:
        """The lock of this host that a process holds which works on it."""
        return self.path.stem

    def read(self) -> Swap | None:
        """What is noted; None if nothing is. Raises `ConfigurationError`."""
        found = self._note.read()
        if not found and not self.path.exists():
            return None
        try:
            return Swap.from_json(found)
        except ValueError as error:
            raise ConfigurationError(
                f"{self.path} cannot be used: {error}",
                hint="beside the disks of its VM are files …vmbackup-new and …vmbackup-old: put "
                "the right ones in place by hand, then remove this file",
            ) from None

    def write(self, swap: Swap) -> Swap:
        """Notes it durably. Raises `ConfigurationError`."""
        self._note.write(swap.to_json())
        return swap

    def remove(self) -> None:
        """Notes nothing any more. Raises `ConfigurationError`."""
        self._note.remove()

    @property
    def _note(self) -> Note:
        return Note(self.path, "which disks are being put in place")


def noted(state_directory: Path) -> Iterator[SwapNote]:
    """The notes of this host."""
    yield from (SwapNote(path) for path in sorted(state_directory.glob(f"{_PREFIX}*.json")))
