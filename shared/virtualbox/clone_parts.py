"""What a live backup makes, a snapshot and a clone in a folder, and how it is known again."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from shared.host.errors import VBoxManageError
from shared.virtualbox.inventory import Machine
from shared.virtualbox.storage import Image, VmSnapshot

#: In the folder of a clone: those that it has on other file systems.
ELSEWHERE: Final = "elsewhere.json"


@dataclass(frozen=True, slots=True)
class Made:
    """What a live backup makes: a snapshot and a clone called `name`, the clone in `folder`.

    In a pause only the clone is made. UUIDs that are not known yet are empty.
    """

    name: str
    folder: Path
    clone: str
    snapshot: str = ""

    def folders(self, machine: Machine | None) -> tuple[Path, ...]:
        """Where its folder may be.

        Where it was made, or where it went with the folder of its VM, which VirtualBox renames with
        the VM; and beside disks of the VM, where those of a clone are that was made in a pause,
        and are also if the VM has other disks now.
        """
        current = set()
        if machine is not None:
            files = [machine.settings_file, *(image.location for image in machine.images)]
            current = {Path(file).parent / self.folder.name for file in files}
        known = {self.folder, *current}
        return tuple(known.union(*map(elsewhere, known)))


def note_elsewhere(folder: Path, others: Iterable[Path]) -> None:
    """Notes which other folders a clone will have, before they are made. Raises `OSError`."""
    with open(folder / ELSEWHERE, "w", encoding="ascii") as file:
        json.dump([str(other) for other in others], file)
        file.flush()
        os.fsync(file.fileno())


def elsewhere(folder: Path) -> frozenset[Path]:
    """Which other folders a clone has that is in this one; none if that cannot be read."""
    try:
        noted = json.loads((folder / ELSEWHERE).read_bytes())
        others = frozenset(map(Path, noted))
    except (OSError, ValueError, TypeError):
        return frozenset()
    return frozenset(other for other in others if other.is_absolute() and other.name == folder.name)


def find_snapshot(snapshots: Iterable[VmSnapshot], made: Made) -> VmSnapshot | None:
    """The snapshot that was made: by its UUID, or as long as that is not known by its random name.

    Raises `VBoxManageError` if somebody has given it another name.
    """
    if not made.snapshot:
        return next((each for each in snapshots if each.name == made.name), None)
    found = next((each for each in snapshots if each.uuid == made.snapshot), None)
    if found is not None and found.name != made.name:
        raise VBoxManageError(
            f"somebody has renamed the snapshot {made.name} to {found.name!r}: it stays",
            hint="delete it if nobody needs it, or give it its name again; the next tick goes on",
        )
    return found


def is_inside(image: Image, folders: Iterable[Path]) -> bool:
    """Whether an image lies in one of these folders."""
    return is_below(image.location, folders)


def is_below(path: str, folders: Iterable[Path]) -> bool:
    """Whether a path lies below one of these folders."""
    return any(Path(path).is_relative_to(folder) for folder in folders)


def asked_for(name: str, *commands: str) -> bool:
    """Whether a process that asks VirtualBox for something of this name still runs.

    One that outlived the worker that started it.
    """
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if set(commands) & set(words) and any(name in word for word in words):
            return True
    return False
