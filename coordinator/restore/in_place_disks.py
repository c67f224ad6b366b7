"""The disks of a copy, made beside those of a VM: clones that are written over, or new files."""

import contextlib
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from uuid import UUID

from coordinator.restore.direct import told_as_damage, unpack
from coordinator.restore.in_place_plan import PlannedDisk
from shared.copies.catalogue import Copy
from shared.copies.names import final_name
from shared.copies.space_needed import human
from shared.frozen.not_frozen import NotFrozenError
from shared.frozen.reflink import clone
from shared.frozen.store import RoomLimit
from shared.host.errors import CopyError, DiskImageError
from shared.ova.disk_reader import open_copy
from shared.ova.vdi import WINDOW, ZERO, VdiImage
from shared.ova.vdi_patching import PatchedVdi
from shared.ova.vdi_writing import BLOCK, DiskFile, TargetError, VdiFile
from shared.ova.vmdk_reader import DiskReader

#: Told what is being done and how far it is, in percent. It raises whatever has to end it.
Step = Callable[[str, float], None]

_MAKE_ROOM: Final = "make room there, or restore the copy beside it, to another place: --to"


def make_disks(
    copy: Copy, disks: Sequence[tuple[PlannedDisk, str]], limit: RoomLimit, step: Step
) -> int:
    """Makes each disk as the file named with it, whole, flushed, and compared with the copy.

    Where the file system has reflinks it is a clone of the disk in use, into which what differs is
    written; then `limit` of it stays free. Elsewhere it is a new file, for which there must be room
    before anything is written. Returns how many bytes were written. Raises `CopyError`, `NasError`,
    `TargetError`, `DiskImageError`; the files are left to the caller.
    """
    clones = [(disk, new) for disk, new in disks if _clone(Path(disk.place), Path(new))]
    step = limited(limit, {Path(new).parent for _, new in clones}, step)
    step("restore", 0)
    with ExitStack() as stack:
        files: dict[str, DiskFile] = {}
        fresh: list[PlannedDisk] = []
        for planned, new in disks:
            patched = _patched(Path(new), planned.size) if (planned, new) in clones else None
            if patched is None:
                fresh.append(planned)
            else:
                files[planned.name] = stack.enter_context(patched)
        _require_room(fresh)
        for planned, new in disks:
            if planned in fresh:
                files[planned.name] = stack.enter_context(
                    VdiFile(Path(new), planned.size, UUID(planned.source.medium))
                )
        write_disks(copy, files, step)
        written = sum(disk.data for disk in fresh) + sum(
            file.written for file in files.values() if isinstance(file, PatchedVdi)
        )
    for planned, new in disks:
        _take_over_rights(planned.place, new)
    compare_disks(copy, disks, step)
    return written


def _clone(source: Path, target: Path) -> bool:
    """Whether `target` is a clone now, that may be written."""
    try:
        clone(source, target)
        target.chmod(0o600)
    except NotFrozenError:
        return False
    except OSError as error:
        raise TargetError(error, target) from None
    return True


def _patched(path: Path, size: int) -> PatchedVdi | None:
    """The clone, open for writing; None, and nothing is there, if it is of another kind."""
    try:
        return PatchedVdi(path, size)
    except DiskImageError:
        with _looking_at(path):
            path.unlink(missing_ok=True)
        return None


def write_disks(copy: Copy, files: dict[str, DiskFile], step: Step) -> None:
    """Makes the files hold what the disks of the copy do. Raises as `make_disks`."""
    with told_as_damage(copy):
        with open_copy(copy.directory / final_name(copy.stamp, "ova")) as reader:
            for disk in reader.disks:
                file = files.get(disk.name)
                if isinstance(file, PatchedVdi):
                    file.zero_all_but(disk.runs())
        unpack(copy, files, step)


def limited(limit: RoomLimit, folders: Collection[Path], step: Step) -> Step:
    """`step`, which also ends it when what is written into clones would take the room of others.

    Then it raises `CopyError`, as if one of `folders`, where the clones are, cannot be looked at.
    """

    def look(doing: str, percent: float) -> None:
        for folder in folders:
            with _looking_at(folder):
                reached = limit.reached(folder)
            if reached:
                raise _no_room(f"less than {limit.percent:g} % are free by now", folder)
        step(doing, percent)

    return look


def _require_room(fresh: Sequence[PlannedDisk]) -> None:
    """Raises `CopyError` if the new files do not fit, of which each block is written whole."""
    needed: dict[int, int] = defaultdict(int)
    places: dict[int, str] = {}
    for disk in fresh:
        folder = os.path.dirname(disk.place)
        with _looking_at(folder):
            device = os.stat(folder).st_dev
        places[device] = folder
        needed[device] += disk.data + 4 * (disk.size // BLOCK) + 2 * BLOCK
    for device, wanted in needed.items():
        with _looking_at(places[device]):
            free = shutil.disk_usage(places[device]).free
        if free < wanted:
            raise _no_room(
                f"the new disks need {human(wanted)}, {human(free)} are free", Path(places[device])
            )


@contextlib.contextmanager
def _looking_at(path: str | Path) -> Iterator[None]:
    """Within, an `OSError` becomes a sentence."""
    try:
        yield
    except OSError as error:
        raise CopyError(
            f"{path} cannot be looked at: {error.strerror}",
            hint="is its file system mounted, and whole?",
        ) from None


def _no_room(why: str, folder: Path) -> CopyError:
    return CopyError(f"there is no room in {folder}: {why}", hint=_MAKE_ROOM)


def _take_over_rights(old: str, new: str) -> None:
    with _looking_at(old):
        found = os.stat(old)
    try:
        if (found.st_uid, found.st_gid) != (os.stat(new).st_uid, os.stat(new).st_gid):
            os.chown(new, found.st_uid, found.st_gid)
        os.chmod(new, found.st_mode & 0o7777)
    except OSError as error:
        raise TargetError(error, Path(new)) from None


def compare_disks(copy: Copy, disks: Sequence[tuple[PlannedDisk, str]], step: Step) -> None:
    """Reads the new disks as VirtualBox will, and the copy once more. Raises `CopyError`."""
    total = sum(planned.size for planned, _ in disks) or 1
    before = 0
    with open_copy(copy.directory / final_name(copy.stamp, "ova")) as reader:
        readers = {disk.name: disk for disk in reader.disks}
        for planned, new in disks:
            if planned.name not in readers:
                raise CopyError(f"the copy {copy.stamp} was exchanged while it was read")
            with VdiImage.open(Path(new)) as image:
                if image.header.identifier != UUID(planned.source.medium):
                    raise CopyError(f"{new} has not the UUID of the disk in use")
                for position in _blocks_compared(image, readers[planned.name]):
                    step("compare", 100 * (before + position) / total)
            before += planned.size


def _blocks_compared(image: VdiImage, disk: DiskReader) -> Iterator[int]:
    """Where each block ends that is in one of the two, and was found to be the same in both."""
    runs, block = _Runs(disk), image.header.block_size
    for start in range(0, image.header.blocks, WINDOW):
        for number, entry in enumerate(image.entries(start, WINDOW), start):
            position = number * block
            length = min(block, disk.size - position)
            if entry >= ZERO and not runs.meet(position, position + length):
                continue
            found = bytes(length) if entry >= ZERO else image.read(entry, length)
            if found != disk.read(position, length):
                raise CopyError(
                    f"{image.path} is not what the copy holds, in the {length} bytes from "
                    f"{position} on",
                    hint="nothing was changed; is the memory or the disk of this host damaged?",
                )
            yield position + length


class _Runs:
    """The ranges of a disk that are not left out as zeros, to be asked in its order."""

    def __init__(self, disk: DiskReader) -> None:
        self._runs = disk.runs()
        self._start = self._end = 0

    def meet(self, start: int, end: int) -> bool:
        """Whether any of these bytes is in one."""
        while self._end <= start:
            found = next(self._runs, None)
            if found is None:
                return False
            self._start, self._end = found[0], found[0] + found[1]
        return self._start < end
