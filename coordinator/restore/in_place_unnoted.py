"""What lies beside the disks of VMs as a restore in place leaves it, and of which nothing is noted.

The notes are in the state directory of this host, which may be moved away, lost, or put back older.
"""

import contextlib
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from coordinator.restore.in_place_plan import every_image
from shared.host.errors import ConfigurationError, IllegalMoveError
from shared.host.printable import printable
from shared.site import Site
from shared.tasks import swap_note
from shared.virtualbox.inventory import Machine

#: What `in_place_plan.names_beside` adds to the name of a disk.
_ADDED: Final = re.compile(r"\.[0-9a-f]{32}\.vmbackup-(?:new|old)")
_MOST_NAMED: Final = 8


def beside(machine: Machine, others: Collection[Machine], state_directory: Path) -> list[str]:
    """The files beside the disks of a VM that no note of this host knows.

    Not those that are disks of one of the `others` by now, or of itself. Empty where one of the
    notes cannot be read, which is told elsewhere, or a directory cannot.
    """
    try:
        known = _noted(state_directory)
    except ConfigurationError:
        return []
    places = {os.path.realpath(image.location) for image in machine.images}
    found = {path for place in places for path in _added_to(place)} - known
    if found:
        used = (image.location for one in (machine, *others) for image in every_image(one))
        found -= {*map(os.path.realpath, used)}
    return sorted(found)


def told(vm: str, paths: Sequence[str], state_directory: Path) -> tuple[str, str]:
    """In words: what is there, and what to do about it."""
    more = [f"{len(paths) - _MOST_NAMED} more"] if len(paths) > _MOST_NAMED else []
    named = ", ".join([*map(printable, paths[:_MOST_NAMED]), *more])
    words = (
        f"nothing is noted in {state_directory} of a restore of {printable(vm)} in place, but "
        f"beside its disks are files of one: {named}"
    )
    hint = (
        "if that directory was moved or replaced: put it back; else, once the VM is known to be "
        "good, with all its disks: delete these files by hand (…vmbackup-old are its disks of "
        "before, …vmbackup-new were never in place)"
    )
    return words, hint


def require_none(site: Site, vm: str, uuid: str) -> None:
    """Raises `IllegalMoveError` if there are any beside the disks of a VM, `VBoxManageError`."""
    machines, state = site.inventory(), site.configuration.host.state_directory
    machine = machines.get(uuid)
    if machine is not None and (paths := beside(machine, machines.values(), state)):
        words, hint = told(vm, paths, state)
        raise IllegalMoveError(words, hint=hint)


def _noted(state_directory: Path) -> set[str]:
    swaps = (note.read() for note in swap_note.noted(state_directory))
    disks = (disk for swap in swaps if swap is not None for disk in swap.disks)
    return {path for disk in disks for path in (disk.new, disk.old)}


def _added_to(place: str) -> Iterable[str]:
    folder, name = os.path.split(place)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(name) and _ADDED.fullmatch(entry.name, len(name)):
                yield entry.path
