"""How much room a backup takes.

On the NAS for its copy, and on this host for the memory of a VM that is saved.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import Final

from shared.copies.catalogue import Catalogue
from shared.copies.space_needed import allocated, human, needed
from shared.host.configuration import VmPolicy
from shared.host.errors import CopyError
from shared.virtualbox.inventory import Machine
from shared.virtualbox.storage import files_of

log: Final = logging.getLogger(__name__)

#: What a saved state has besides the memory: devices, tables, a screen of default size, which no
#: settings file mentions.
_STATE_WITHOUT_MEMORY: Final = 64 << 20


def source_bytes(machine: Machine) -> int:
    """Bytes that its disks take on this host."""
    return allocated(Path(path) for image in machine.images for path in files_of(image))


def needed_on_nas(machine: Machine, policy: VmPolicy, there: Catalogue) -> int:
    """Bytes of the next copy of a VM with its side files, rather too many than too few.

    `there`: the copies that it has.
    """
    latest = there.latest_good
    side_files = sum(map(_size, (machine.settings_file, machine.nvram_file)))
    if policy.saved == "keep":
        side_files += _size(state_file(machine))
        side_files += memory_of(machine) if machine.running and policy.running == "savestate" else 0
    return needed(source_bytes(machine), latest.sidecar if latest else None) + side_files


def memory_of(machine: Machine) -> int:
    """Bytes that VirtualBox writes at most when it saves the state of a VM."""
    return machine.settings.memory + _STATE_WITHOUT_MEMORY if machine.settings else 0


def require_room_for_memory(machine: Machine) -> None:
    """Raises `CopyError` if the memory of a running VM may not fit on this host's disk.

    Saving it would fail in the middle.
    """
    folder = Path(machine.settings_file).parent / (
        machine.settings.snapshot_folder if machine.settings else ""
    )
    existing = next((place for place in (folder, *folder.parents) if os.path.exists(place)), folder)
    try:
        free, memory = shutil.disk_usage(existing).free, memory_of(machine)
    except OSError as error:
        log.warning(
            "whether there is room for its memory is not known: %s",
            error,
            extra={"vm": machine.name},
        )
        return
    if free < memory:
        raise CopyError(
            (
                f"there is no room on this host for its memory: {human(memory)} may be needed in "
                f"{existing}, {human(free)} are free"
            ),
            hint=(
                'make room there, or let it be shut down (running = "shutdown") or left alone '
                'until it stops (running = "defer")'
            ),
        )


def state_file(machine: Machine) -> str:
    """The file with the memory of a saved VM; empty if it is not saved."""
    stated = machine.settings.state_file if machine.settings else ""
    return os.path.join(os.path.dirname(machine.settings_file), stated) if stated else ""


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size if path else 0
    except OSError:
        return 0
