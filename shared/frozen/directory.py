"""Where the clones of a VM's images are: in directories of our own, beside its disks.

    FOLDER/.vmbackup/REPOSITORY/UUID/17-0.frozen    the first clone that was made under claim 17

VirtualBox knows nothing of them, and no name ends like that of a disk, so that nobody takes one for
one. Each directory is noted in this host's state directory before it is made: so it is found again
when the VM is not where it was, or is no more.
"""

import contextlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from shared.frozen.kept_clones import KeptNote
from shared.frozen.not_frozen import NotFrozenError
from shared.host.errors import ConfigurationError
from shared.host.notes import Note

_OWN: Final = ".vmbackup"


_NOTES: Final = "frozen"


_NAME: Final = re.compile(r"([1-9][0-9]{0,17})-[0-9]{1,9}\.frozen")


@dataclass(frozen=True, slots=True)
class CloneDirectory:
    """The directory with clones of one VM in one folder of it, and the note that it exists."""

    note: Note
    folder: Path
    repository: str
    uuid: str

    @classmethod
    def of(cls, state_directory: Path, folder: Path, repository: str, uuid: str) -> Self:
        """That of a VM in a folder. Nothing is made, and nothing looked at."""
        name = sha256(os.fsencode(folder)).hexdigest()[:16]
        path = state_directory / _NOTES / f"{repository}-{uuid}-{name}.json"
        return cls(Note(path, f"where clones of {uuid} are"), folder, repository, uuid)

    @property
    def path(self) -> Path:
        """The directory itself."""
        return self.folder / _OWN / self.repository / self.uuid

    def make(self) -> None:
        """Makes it, for its owner only. Raises `NotFrozenError`.

        It is noted before, so that a crash leaves none that is not known, and again afterwards,
        because whoever swept what was not there yet has removed the note.
        """
        try:
            self._write_note()
            for path in (self.path.parent.parent, self.path.parent, self.path):
                with contextlib.suppress(FileExistsError):
                    path.mkdir(mode=0o700)
                if not _is_own(path):
                    raise NotFrozenError(f"{path} is no directory of this user")
            self._write_note()
        except ConfigurationError as error:
            raise NotFrozenError(error.message) from None
        except OSError as error:
            raise NotFrozenError(f"{self.path} cannot be made: {error.strerror}") from None

    def adopt(self) -> None:
        """Notes it if it is there and this user's, as after its folder was moved.

        Raises `ConfigurationError`, OSError.
        """
        with contextlib.suppress(FileNotFoundError):
            if all(map(_is_own, (self.path.parent.parent, self.path.parent, self.path))):
                self._write_note()

    @property
    def is_away(self) -> bool:
        """Whether it is not there and may come back: its file system is not mounted now."""
        if os.path.lexists(self.path):
            return False
        try:
            place = next(each for each in (self.folder, *self.folder.parents) if each.exists())
            return place.stat().st_dev != self.note.read().get("device")
        except (OSError, ConfigurationError):
            return True

    def _write_note(self) -> None:
        self.note.write(
            {
                "folder": str(self.folder),
                "repository": self.repository,
                "uuid": self.uuid,
                "device": self.folder.stat().st_dev,
            }
        )

    def clones(self) -> Iterator[tuple[int, Path]]:
        """The clones that are there, each with the number of the claim under which it was made."""
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(self.path)):
                if found := _NAME.fullmatch(name):
                    yield int(found[1]), self.path / name

    def remove(self, gone: Callable[[int], bool], spared: Collection[Path] = frozenset()) -> None:
        """Removes the clones whose claims are `gone`, and the directory if it is empty then.

        Those that are `spared` stay. What cannot be removed now, or is away, stays noted.
        """
        away = self.is_away
        with contextlib.suppress(OSError):
            for claim, path in self.clones():
                if gone(claim) and path not in spared:
                    path.unlink(missing_ok=True)
            for path in (self.path, self.path.parent, self.path.parent.parent):
                with contextlib.suppress(FileNotFoundError):
                    path.rmdir()
        if not away and not os.path.lexists(self.path):
            with contextlib.suppress(OSError):
                self.note.path.unlink(missing_ok=True)


def _is_own(path: Path) -> bool:
    """Whether it is a directory of this user, and no link to one. Raises OSError."""
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def known_directories(state_directory: Path, repository: str) -> Iterator[CloneDirectory]:
    """The directories with clones for a repository that this host has noted."""
    try:
        names = sorted(os.listdir(state_directory / _NOTES))
    except OSError:
        return
    for name in names:
        if not name.startswith(f"{repository}-") or not name.endswith(".json"):
            continue
        note = Note(state_directory / _NOTES / name, "")
        try:
            found = note.read()
        except ConfigurationError:
            continue
        folder, uuid = found.get("folder"), found.get("uuid")
        if isinstance(folder, str) and isinstance(uuid, str):
            made = CloneDirectory.of(state_directory, Path(folder), repository, uuid)
            if made.note.path == note.path:
                yield made


def remove_all(state_directory: Path, repository: str) -> None:
    """Removes all clones that this host has noted for a repository. What is away stays noted."""
    for directory in known_directories(state_directory, repository):
        KeptNote(state_directory, repository, directory.uuid).remove()
        directory.remove(lambda _claim: True)
