"""The VM that runs from a copy, as VirtualBox lists it: whose it is, and where it lies."""

import contextlib
import os
import shlex
from dataclasses import replace
from pathlib import Path

from coordinator.booting import mounts
from shared.host.errors import LockedError, UsageError, VBoxManageError
from shared.host.printable import option
from shared.host.processes import SubprocessRunner
from shared.site import Site
from shared.state.rules import hosts
from shared.tasks import boot_note
from shared.tasks.boot_note import BootNote, Phase
from shared.virtualbox import scratch
from shared.virtualbox.importing import folder_name
from shared.virtualbox.inventory import Machine


def require_owner(note: BootNote) -> None:
    """Raises `UsageError` if the VM is another user's, to whose VirtualBox it is not listed here.

    That one would take it for unregistered.
    """
    try:
        owner = note.folder.lstat().st_uid
    except OSError:
        return
    ours = note.phase != Phase.MAKING or scratch.mark_in(note.folder) == note.mark
    if ours and owner != os.geteuid():
        raise UsageError(
            f"{note.name!r} in {note.folder} is a VM of uid {owner}, and this is uid "
            f"{os.geteuid()}",
            hint="run it as the user who owns the VMs",
        )


def require_user(site: Site) -> None:
    """Raises `NodeConflictError` if the VMs of this host are another user's, as is recorded."""
    hosts.check_user(site.database.head().contents, site.node, str(os.geteuid()))


def machine_of(site: Site, note: BootNote) -> Machine | None:
    """The VM, if VirtualBox lists it and it lies in its folder. Raises `VBoxManageError`."""
    machine = site.inventory().get(note.uuid)
    if machine is not None and not _lies_in(machine, note.folder):
        raise _moved(note, machine)
    return machine


def moved_away(site: Site, note: BootNote) -> Machine | None:
    """The VM, if it is filled, and VirtualBox has moved it with all its disks (`movevm`).

    VirtualBox has copied them then, as they were served. Raises `VBoxManageError`.
    """
    machine = site.inventory().get(note.uuid)
    if machine is None or _lies_in(machine, note.folder):
        return None
    if _was_renamed(note, Path(os.path.realpath(machine.settings_file)).parent):
        return None  # with its folder, in which the mount is: nothing was copied
    return machine if disks_elsewhere(machine, note) else None


def disks_elsewhere(machine: Machine, note: BootNote) -> dict[Path, Path]:
    """Where it has its disks, each with the file that was filled, if none is in the old folder."""
    places = {image.uuid: Path(os.path.realpath(image.location)) for image in machine.images}
    found = {places[disk.uuid]: note.partial(disk) for disk in note.disks if disk.uuid in places}
    own = os.path.realpath(note.folder)
    away = all(not place.is_relative_to(own) and os.path.isfile(place) for place in found)
    return found if note.is_whole and away and len(found) == len(note.disks) else {}


def followed(site: Site, note: BootNote) -> BootNote:
    """The note of a VM whose folder VirtualBox has renamed with it, written anew; else as it is.

    For whoever has the lock of the VM. What serves it is ended, for it writes to the old place.
    Raises `LockedError` while the VM is on, `VBoxManageError` if it was moved in another way.
    """
    machine = site.inventory().get(note.uuid)
    if machine is None or _lies_in(machine, note.folder):
        return note
    folder = Path(os.path.realpath(machine.settings_file)).parent
    if not _was_renamed(note, folder):
        raise _moved(note, machine)
    if not site.vboxmanage.info(note.uuid).stopped:
        raise LockedError(
            f"{note.name!r} lies in {folder} by now, and is on", hint="shut it down, then again"
        )
    moved = replace(note, folder=folder)
    mounts.unmount(moved, SubprocessRunner(), lazily=True)
    mounts.wait_for_server(moved)
    for file in (note.progress.path, note.whole.path):  # what its server went on to say there
        file.unlink(missing_ok=True)
    for empty in (note.filling, note.folder):
        with contextlib.suppress(OSError):
            empty.rmdir()
    boot_note.write(moved)
    return moved


def _lies_in(machine: Machine, folder: Path) -> bool:
    return Path(os.path.realpath(machine.settings_file)).is_relative_to(os.path.realpath(folder))


def _was_renamed(note: BootNote, folder: Path) -> bool:
    return scratch.mark_in(folder) == note.mark and scratch.mark_in(note.folder) != note.mark


def _moved(note: BootNote, machine: Machine) -> VBoxManageError:
    way_back = f"move it back to {note.folder} (VBoxManage movevm)"
    if disks_elsewhere(machine, note):
        way_back = (
            f"it has all its disks there: vmbackup-admin boot {option('--finish', note.name)}"
        )
    if _was_renamed(note, Path(os.path.realpath(machine.settings_file)).parent):
        way_back = f"shut it down, then vmbackup-admin boot {option('--finish', note.name)}"
    return VBoxManageError(
        f"the VM {{{note.uuid}}} was moved to {machine.settings_file}", hint=way_back
    )


def listed(site: Site, note: BootNote) -> Machine:
    """The same, of one that is there. Raises `UsageError` if VirtualBox does not list it."""
    machine = machine_of(site, note)
    if machine is None:
        raise UsageError(
            f"VirtualBox does not list {note.name!r}",
            hint="register it again: VBoxManage registervm "
            f"{shlex.quote(str(settings_file(note)))}; or throw it away: "
            f"vmbackup-admin boot {option('--discard', note.name)}",
        )
    return machine


def settings_file(note: BootNote) -> Path:
    """Where its settings are, unless its user gave it another name."""
    found = sorted(note.folder.glob("*.vbox"))
    usual = note.folder / f"{folder_name(note.name)}.vbox"
    return found[0] if len(found) == 1 else usual
