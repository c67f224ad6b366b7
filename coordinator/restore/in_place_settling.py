"""What becomes of a VM that was taken back in place, or was about to be.

What a killed command has left is settled, what was done is told to the database, and the disks of
before are removed when nobody needs them any more.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from coordinator.restore.in_place_plan import every_image
from shared.host.clock import timestamp
from shared.host.errors import (
    ConfigurationError,
    IllegalMoveError,
    LockedError,
    VmBackupError,
)
from shared.host.host_lock import host_lock
from shared.host.printable import quoted
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import Restoration, VmRecord
from shared.state.rules import copies, sightings
from shared.state.states import Event
from shared.tasks import disk_swap
from shared.tasks.disk_swap import PresentDisks, present_disks
from shared.tasks.swap_note import Swap, SwapNote, noted


def note_of(site: Site, record: VmRecord) -> SwapNote:
    """Where it is noted on this host what becomes of the VM."""
    return SwapNote.of(site.configuration.host.state_directory, record.uuid)


def noted_of(site: Site, vm: str) -> SwapNote | None:
    """The note of a VM of which nothing else is known: neither a record nor copies.

    `vm` is its UUID, or the name that it had. None if nothing is noted, or of several.
    """
    found = []
    for note in noted(site.configuration.host.state_directory):
        with contextlib.suppress(ConfigurationError):
            swap = note.read()
            if swap is not None and vm in (swap.uuid, swap.name):
                found.append(note)
    return found[0] if len(found) == 1 else None


def refuse_unfinished(swap: Swap | None, record: VmRecord, wanted: str) -> None:
    """Raises `IllegalMoveError` while the disks of the last time are kept.

    `wanted`: the copy that it is to be taken back to now.
    """
    if swap is not None and swap.done:
        other = f", not to {wanted}" if wanted != swap.stamp else ""
        raise IllegalMoveError(
            f"{record.key} was taken back to {swap.stamp} at {swap.done}{other}, and its disks of "
            f"before are still there: {', '.join(disk_swap.left_of_old(swap)) or 'none of them'}",
            hint=f"vmbackup-admin restore --into --finish {quoted(record.key)} removes them; "
            f"--undo in its place gives them back to the VM",
        )


@contextlib.contextmanager
def alone(site: Site, note: SwapNote) -> Iterator[None]:
    """Holds the lock of this host for the VM. Raises `LockedError` if another process does."""
    with host_lock(site.configuration.host.state_directory, note.lock) as mine:
        if not mine:
            raise LockedError(
                "another command takes this VM back, or the database worker tidies up after one",
                hint="wait until it has ended",
            )
        yield


def settle(site: Site, note: SwapNote, swap: Swap | None) -> tuple[Swap | None, str]:
    """Settles what was broken off: what is noted then, which may be nothing.

    With it why that could not be noted, if all new disks are in place; empty: it is noted. Raises
    `SwapError`, and `ConfigurationError` if they are not.
    """
    if swap is None:
        return None, ""
    when = timestamp(site.clock.now())
    try:
        return disk_swap.resume(note, swap, when), ""
    except ConfigurationError as error:
        if present_disks(swap) is not PresentDisks.NEW:
            raise
        return replace(swap, done=when), error.message


def said_of(error: BaseException) -> str:
    """What went wrong, in words."""
    if isinstance(error, VmBackupError):
        return error.message
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted from the keyboard"
    return str(error) or repr(error)


def finish(site: Site, vm: str, note: SwapNote, *, only_look: bool) -> Swap:
    """Removes the old disks, and the note. Returns what was noted. `vm` is what the VM is called.

    Raises `IllegalMoveError` if the VM was not taken back, has no disks without them, or something
    uses them; `VBoxManageError`, `ConfigurationError`.
    """
    swap = note.read()
    if swap is not None and not only_look:
        swap = disk_swap.resume(note, swap, timestamp(site.clock.now()))
    if swap is None or not (swap.done or present_disks(swap) is PresentDisks.NEW):
        raise IllegalMoveError(f"{vm} was not taken back to a copy: nothing is left of it")
    machine = site.machine(swap.uuid)
    images = machine.images if machine is not None else ()
    gone = machine is None and not disk_swap.left_of_old(swap)  # nobody has anything to lose
    if not gone and not (images and all(Path(image.location).is_file() for image in images)):
        raise IllegalMoveError(
            f"the disks of {vm} are not all there: those of before may be the only ones",
            hint=f"look at them, and remove what is not needed: {note.path} has their names",
        )
    require_unused(site, vm, swap, "--finish")
    if not only_look:
        disk_swap.remove_old(swap)
        note.remove()
    return swap


def is_recorded(record: VmRecord, swap: Swap) -> bool:
    """Whether the database tells of it, or of what was restored later."""
    return record.restored is not None and record.restored.when >= swap.done


def record_it(site: Site, record: VmRecord, swap: Swap) -> None:
    """Writes to the database that the VM is what it was at a copy: it is to be backed up.

    Raises what a commit raises: `NasError`, for one.
    """
    what = Restoration(swap.stamp, site.node, swap.name, swap.uuid, swap.done)

    def change(contents: Contents) -> Contents:
        noted = copies.restored(contents, record.key, what)
        return sightings.apply_events(noted, {record.uuid: (Event.CHANGED,)})

    site.database.commit_once(change, f"restore {record.key} {swap.stamp} in place", "restore")


def require_unused(site: Site, vm: str, swap: Swap, then: str) -> None:
    """Raises `IllegalMoveError` if VirtualBox has an old disk as one of a VM, by whatever name.

    `then`: with which option the command is given again.
    """
    old = disk_swap.left_of_old(swap)
    known = {os.path.realpath(path) for path in old} | {*map(_identity, old)} - {None}
    if not known:
        return
    for machine in site.inventory().values():
        for image in every_image(machine):
            place = image.location
            if os.path.realpath(place) in known or _identity(place) in known:
                raise IllegalMoveError(
                    f"a disk that {vm} had before, {place}, is one of "
                    f"{machine.name or machine.uuid} by now: it is left alone",
                    hint=f"detach it there, and close it in VirtualBox; or keep it: move it "
                    f"elsewhere. Then: vmbackup-admin restore --into {then} {quoted(vm)}",
                )


def _identity(path: str) -> tuple[int, int] | None:
    """What a file is known by, under each of its names; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
