"""The clones of the images of one VM: made for a backup, and kept for the next one.

They are kept only while their file system has room (`shared.frozen.directory`: where they are).
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.frozen.comparison import MOST_EXTENTS
from shared.frozen.directory import CloneDirectory, known_directories
from shared.frozen.extents import count_extents
from shared.frozen.kept_clones import KeptClones, KeptNote
from shared.frozen.not_frozen import NotFrozenError
from shared.frozen.reflink import clone


@dataclass(frozen=True, slots=True)
class RoomLimit:
    """Clones are made and kept only while so much of their file system is free, in percent."""

    percent: float

    def reached(self, directory: Path) -> bool:
        """Whether there is less. Raises OSError."""
        room = os.statvfs(directory)
        return room.f_bavail * 100 < room.f_blocks * self.percent

    def reached_in(self, directories: Iterable[Path]) -> bool:
        """Whether there is less in any of them; not, as long as they cannot be asked."""
        with contextlib.suppress(OSError):
            return any(map(self.reached, directories))
        return False


class CloneStore:
    """Makes the clones of one VM under one claim."""

    def __init__(
        self,
        state_directory: Path,
        repository: str,
        uuid: str,
        *,
        home: Path,
        claim: int,
        limit: RoomLimit,
        folder_for: Callable[[Path], Path] = lambda source: source.parent,
    ) -> None:
        """`home` is the VM's own folder; `folder_for` a file elsewhere is where its clone lies."""
        self._state_directory, self._repository, self._uuid = state_directory, repository, uuid
        self._home, self._claim, self._limit = home, claim, limit
        self._folder_for = folder_for
        self._note = KeptNote(state_directory, repository, uuid)
        self._made: dict[Path, CloneDirectory] = {}
        self._count = 0
        self._extents = 0

    def clone(self, source: Path) -> Path:
        """The clone of a file as it is now. It is there until `discard`, or longer with `keep`.

        Raises `NotFrozenError`: then the file is no worse for it.
        """
        try:
            folder = self._folder(source)
            directory = self._directory(folder)
            self._admit(source, folder)
        except OSError as error:
            raise NotFrozenError(f"{source} cannot be cloned: {error.strerror}") from None
        if folder not in self._made:
            directory.make()
            self._made[folder] = directory
        target = directory.path / f"{self._claim}-{self._count}.frozen"
        clone(source, target)
        self._count += 1
        return target

    def kept(self) -> KeptClones | None:
        """The clones of the last good copy, as they were noted."""
        return self._note.read()

    def keep(self, stamp: str, index: str, disks: Mapping[str, Sequence[Path]]) -> None:
        """Keeps clones that were made now as those of the copy `stamp`, and no others.

        `index` is the digest of the copy's index; `disks` has the clones of each by its place.
        Raises `NotFrozenError`.
        """
        kept = self._note.write(stamp, index, disks)
        for directory in known_directories(self._state_directory, self._repository):
            if directory.uuid == self._uuid:
                directory.remove(lambda claim: claim <= self._claim, kept.paths)
        self._made.clear()

    def short_of_room(self) -> bool:
        """Whether what is written to the disks by now is more than the clones may keep apart."""
        return self._limit.reached_in(self._made)

    def discard(self) -> None:
        """Removes the clones that were made, unless they are kept. May be repeated.

        What is open can still be read.
        """
        for directory in self._made.values():
            directory.remove(lambda claim: claim == self._claim)
        self._made.clear()

    def _folder(self, source: Path) -> Path:
        same = os.stat(source).st_dev == os.stat(self._home).st_dev
        return self._home if same else self._folder_for(source)

    def _directory(self, folder: Path) -> CloneDirectory:
        """That of a folder, rid of what takes the room of new clones and serves nothing."""
        if folder in self._made:
            return self._made[folder]
        found = CloneDirectory.of(self._state_directory, folder, self._repository, self._uuid)
        kept = self.kept()  # everything else was left by workers that died
        found.remove(lambda claim: claim <= self._claim, kept.paths if kept else ())
        return found

    def _admit(self, source: Path, folder: Path) -> None:
        if self._limit.reached(folder):
            raise NotFrozenError(
                f"less than {self._limit.percent:g} % of the file system of {folder} are free"
            )
        with source.open("rb") as file:
            self._extents += count_extents(file.fileno())
        if self._extents > MOST_EXTENTS:
            raise NotFrozenError(
                f"its images have {self._extents} extents on their file system, more than "
                f"{MOST_EXTENTS}: they are fragmented"
            )
