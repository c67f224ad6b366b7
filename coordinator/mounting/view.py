"""The files that a mounted copy shows: disks, partitions, settings, description.

Their names are ours: those in the copy may hold anything.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from coordinator.guest.partitions import partitions
from coordinator.mounting.steady_copy import SteadyCopy
from shared.host.errors import CopyError, NasError
from shared.ova.disk_reader import CopyReader, open_copy

_BESIDE: Final = ("vbox", "nvram")


@dataclass(frozen=True, slots=True)
class ViewFile:
    """A file: part `start` to `start + size` of a disk, or `content`."""

    size: int
    disk: int = 0
    start: int = 0
    content: bytes = b""


@dataclass
class CopyView:
    """The files of the copy at `ova`. Safe in any thread.

    When the NAS was away, the copy is opened anew by the next read; if it is another one by then,
    that read fails.
    """

    ova: Path
    opener: Callable[[Path], CopyReader] = open_copy
    files: dict[str, ViewFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `CopyError`, `NasError`."""
        self._copy = SteadyCopy(self.ova, self.opener)
        reader = self._copy.reader()
        self.files |= _of_disks(reader) | _of_members(reader)
        #: Why disks are not among the files, each with its number.
        self.problems = [
            f"disk {number}: {disk.problem}"
            for number, disk in enumerate(reader.disks, 1)
            if disk.problem
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._copy.__exit__(*exception)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """The bytes of a file from `offset` on, fewer at its end.

        Raises KeyError if there is no such file, `GoneError`, `CopyError`, `NasError`.
        """
        file = self.files[name]
        length = max(0, min(length, file.size - offset))
        if not file.disk:
            return file.content[offset : offset + length]
        return self._copy.read(file.disk, file.start + offset, length)


def _of_disks(reader: CopyReader) -> dict[str, ViewFile]:
    found = {}
    for number, disk in enumerate(reader.disks, 1):
        if disk.problem:
            continue
        found[f"disk{number}.img"] = ViewFile(disk.size, number)
        try:
            parts = partitions(disk.read, disk.size)
        except (CopyError, NasError):
            parts = ()  # the disk itself can still be read where it is whole
        for part in parts:
            name = f"disk{number}.part{part.number}.img"
            found[name] = ViewFile(part.size, number, part.start)
    return found


def _of_members(reader: CopyReader) -> dict[str, ViewFile]:
    """The description, and the settings and firmware variables, as far as they are there."""
    ovf = next((name for name in reader.names if name.lower().endswith(".ovf")), "")
    wanted = {"description.ovf": ovf, **{f"settings.{name}": name for name in _BESIDE}}
    found = {}
    for shown, member in wanted.items():
        try:
            content = reader.member(member) if member else b""
        except CopyError:
            continue  # it is not there
        if content:
            found[shown] = ViewFile(len(content), content=content)
    return found
