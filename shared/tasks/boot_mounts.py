"""Where the disks of VMs are mounted that run from copies, as the kernel lists it.

No server is asked: one may wait for the NAS.
"""

import os
from pathlib import Path
from typing import Final

from shared.serving import places
from shared.serving.places import MountedCopy
from shared.tasks.boot_note import BootNote
from shared.virtualbox import scratch

#: How these mounts are told from others.
SUBTYPE: Final = "vmbackup-boot"


def mount_of(note: BootNote) -> MountedCopy | None:
    """What is mounted where its disks are served; None if nothing is."""
    place = Path(os.path.realpath(note.place.parent)) / note.place.name
    return next((each for each in places.mounted(kind=SUBTYPE) if each.place == str(place)), None)


def is_mounted(note: BootNote) -> bool:
    """Whether something is mounted there, whose server may be gone."""
    return mount_of(note) is not None


def moved_to(note: BootNote) -> Path | None:
    """Where its folder is by now, if somebody moved it with the mount in it; else None."""
    for each in places.mounted(kind=SUBTYPE):
        folder = Path(each.place).parent
        if scratch.mark_in(folder) == note.mark and not _is_same(folder, note.folder):
            return folder
    return None


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
