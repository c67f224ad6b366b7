"""The files that a mounted copy shows: disks, partitions, volumes, settings, description.

Their names are ours: those in the copy may hold anything.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from coordinator.guest.logical_volumes import LogicalVolume
from coordinator.guest.place_names import mounted_name
from coordinator.guest.systems import DiskPlace, of_disk, volumes
from coordinator.mounting.steady_copy import SteadyCopy
from shared.host.errors import CopyError, NasError
from shared.ova.disk_reader import CopyReader, open_copy

_BESIDE: Final = ("vbox", "nvram")


@dataclass(frozen=True, slots=True)
class ViewFile:
    """A file: part `start` to `start + size` of a disk, a logical volume, or `content`."""

    size: int
    disk: int = 0
    start: int = 0
    content: bytes = b""
    volume: LogicalVolume | None = None


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
        #: Why disks are not among the files, each with its number.
        self.problems = [
            f"disk {number}: {disk.problem}"
            for number, disk in enumerate(reader.disks, 1)
            if disk.problem
        ]
        #: Why partitions and volumes are not, whose disks are.
        self.unread: list[str] = []
        self.files |= _of_disks(reader, self.unread) | _of_members(reader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._copy.__exit__(*exception)

    def reader(self) -> CopyReader:
        """The copy. Raises like `read`."""
        return self._copy.reader()

    def read(self, name: str, offset: int, length: int) -> bytes:
        """The bytes of a file from `offset` on, fewer at its end.

        Raises KeyError if there is no such file, `GoneError`, `CopyError`, `NasError`.
        """
        file = self.files[name]
        length = max(0, min(length, file.size - offset))
        if file.volume:
            pieces = file.volume.pieces(offset, length)
            return b"".join(self._copy.read(disk, at, size) for disk, at, size in pieces)
        if not file.disk:
            return file.content[offset : offset + length]
        return self._copy.read(file.disk, file.start + offset, length)


def _of_disks(reader: CopyReader, unread: list[str]) -> dict[str, ViewFile]:
    """Of a disk that cannot be read in part the rest is there all the same; `unread` says why."""
    found, parts = dict[str, ViewFile](), list[DiskPlace]()
    for number, disk in enumerate(reader.disks, 1):
        if disk.problem:
            continue
        found[mounted_name(str(number))] = ViewFile(disk.size, number)
        with _told(f"disk {number}", unread):
            for place in of_disk(disk, number):
                parts.append(place)
                file = ViewFile(place.part.size, number, place.part.start)
                found.setdefault(mounted_name(place.name), file)
    with _told("volumes of LVM", unread):
        for volume in volumes(parts).found:
            if not volume.problem:
                found[mounted_name(volume.name)] = ViewFile(volume.size, volume=volume)
    return found


@contextlib.contextmanager
def _told(what: str, unread: list[str]) -> Iterator[None]:
    try:
        yield
    except (CopyError, NasError) as error:
        unread.append(f"{what}: {error.message}")
    except Exception as error:  # noqa: BLE001 - a guest wrote it: it never takes away the disks
        unread.append(f"{what}: not understood ({type(error).__name__}: {error})")


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
