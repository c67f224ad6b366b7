"""The clones of a VM's last good copy, kept until the next one: what they are, and of which copy.

They are noted in this host's state directory, with the identity of each file. A clone that is not
that file any more, byte for byte as it was left, is not believed: who writes into one changes its
times, and who puts one back from a backup of the host has another inode.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from shared.frozen.not_frozen import NotFrozenError
from shared.host.document_fields import FROM_JSON, Count, Sha256
from shared.host.documents import Document
from shared.host.errors import ConfigurationError
from shared.host.notes import Note


@dataclass(frozen=True, slots=True)
class KeptImage(Document):
    """One clone as it was left. Times are nanoseconds since the epoch."""

    path: str
    device: Count
    inode: Count
    size: Count
    mtime: Count
    ctime: Count

    @classmethod
    def of(cls, path: Path) -> Self:
        """A clone as it is now. Raises OSError."""
        return cls(str(path), *_identity(os.stat(path, follow_symlinks=False)))

    def is_file(self, descriptor: int) -> bool:
        """Whether an open file is this clone, untouched. Raises OSError."""
        found = (self.device, self.inode, self.size, self.mtime, self.ctime)
        return _identity(os.fstat(descriptor)) == found


@dataclass(frozen=True, slots=True)
class KeptClones(Document):
    """The clones of which the copy `stamp` was made, whose index has the digest `index`.

    `disks`: the images of each, leaf first, by the place where it was attached (`SATA-0-0`).
    """

    stamp: str
    index: Sha256
    disks: Mapping[str, Annotated[tuple[KeptImage, ...], FROM_JSON]]

    @property
    def paths(self) -> frozenset[Path]:
        """Where they are."""
        return frozenset(Path(image.path) for disk in self.disks.values() for image in disk)


@dataclass(frozen=True, slots=True)
class KeptNote:
    """The note of one VM's kept clones."""

    state_directory: Path
    repository: str
    uuid: str

    def read(self) -> KeptClones | None:
        """What is kept; None if nothing is, or nothing that is understood."""
        try:
            return KeptClones.from_json(self._note.read())
        except (ConfigurationError, ValueError):
            return None

    def write(self, stamp: str, index: str, disks: Mapping[str, Sequence[Path]]) -> KeptClones:
        """Notes clones that are there from now on, durably. Raises `NotFrozenError`.

        A crash leaves what was noted before, or this.
        """
        try:
            for path in {path for disk in disks.values() for path in disk}:
                _flush(path)
                _flush(path.parent)
            images = {
                place: tuple(KeptImage.of(path) for path in paths) for place, paths in disks.items()
            }
            kept = KeptClones(stamp, index, images)
            self._note.write(
                {
                    "stamp": stamp,
                    "index": index,
                    "disks": {
                        place: [image.to_json() for image in disk] for place, disk in images.items()
                    },
                }
            )
        except ConfigurationError as error:
            raise NotFrozenError(error.message) from None
        except OSError as error:
            raise NotFrozenError(f"clones cannot be kept: {error.strerror}") from None
        return kept

    def remove(self) -> None:
        """Nothing is kept any more."""
        with contextlib.suppress(OSError):
            self._note.path.unlink(missing_ok=True)

    @property
    def _note(self) -> Note:
        path = self.state_directory / "frozen" / f"{self.repository}-{self.uuid}.kept"
        return Note(path, f"which clones of {self.uuid} are kept")


def _identity(status: os.stat_result) -> tuple[int, int, int, int, int]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
