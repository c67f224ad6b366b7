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
from shared.tasks import boot_done, boot_mounts, boot_note
from shared.tasks.boot_done import DoneBoot
from shared.tasks.boot_note import BootDisk, BootNote, Phase
from shared.virtualbox import scratch
from shared.virtualbox.importing import folder_name
from shared.virtualbox.inventory import Machine
from shared.virtualbox.patience import patiently
from shared.virtualbox.power import PowerSwitch
from shared.virtualbox.vboxmanage_output import STOPPED


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

    VirtualBox has copied them then, as they were served; those that had their names already were
    moved themselves. Raises `VBoxManageError`.
    """
    if note.phase != Phase.PLACED and not note.is_whole:
        return None  # before VirtualBox is asked, which whoever waits for it does each second
    machine = site.inventory().get(note.uuid)
    if machine is None or _lies_in(machine, note.folder):
        return None
    if _was_renamed(note, Path(os.path.realpath(machine.settings_file)).parent):
        return None  # with its folder, in which the mount is: nothing was copied
    return machine if _has_its_disks(machine, note) else None


def disks_elsewhere(machine: Machine, note: BootNote) -> dict[BootDisk, Path]:
    """Where it has those of its disks that are not where they are served."""
    known = machine.settings.images.values() if machine.settings is not None else ()
    wanted = {disk.uuid for disk in note.disks}
    places = {
        image.uuid: Path(os.path.realpath(image.location))
        for image in (*known, *machine.images)
        if image.uuid in wanted
    }
    served = Path(os.path.realpath(note.folder)) / note.place.name
    found = ((disk, places.get(disk.uuid)) for disk in note.disks)
    return {disk: place for disk, place in found if place not in (None, served / disk.file)}


def folder_of(site: Site, note: BootNote) -> Path:
    """Where the VM lies by now, of which nothing may be noted any more."""
    machine = None
    with contextlib.suppress(VBoxManageError):
        machine = site.inventory().get(note.uuid)
    if machine is None or _lies_in(machine, note.folder):
        return note.folder
    return Path(machine.settings_file).parent


def done(site: Site, name: str) -> tuple[DoneBoot, Path] | None:
    """The VM that was called so, ran from a copy, and is an ordinary one; and where it lies.

    Only what VirtualBox lists still. Raises `VBoxManageError`.
    """
    known = boot_done.named(site.configuration.host.state_directory, name)
    listed = site.inventory() if known else {}
    found = ((each, listed.get(each.uuid)) for each in known)
    return next(((each, Path(vm.settings_file).parent) for each, vm in found if vm), None)


def _has_its_disks(machine: Machine, note: BootNote) -> bool:
    """Whether one that lies elsewhere has all its disks there, and needs no other files."""
    if note.phase == Phase.PLACED:
        return True
    found, own = disks_elsewhere(machine, note), os.path.realpath(note.folder)
    away = (not place.is_relative_to(own) and place.is_file() for place in found.values())
    return note.is_whole and all(away) and len(found) == len(note.disks)


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
    if _has_its_disks(machine, note):
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
            hint=f"{_register(note)}; or throw it away: "
            f"vmbackup-admin boot {option('--discard', note.name)}",
        )
    return machine


def require_not_moved(note: BootNote) -> None:
    """Raises `LockedError` if somebody moved its folder while its disks are mounted in it."""
    folder = boot_mounts.moved_to(note)
    if folder is not None:
        raise LockedError(
            f"{note.folder} was moved to {folder}, with the disks of {note.name!r} mounted in it",
            hint=f"move it back, then give the command again; or {_register(note)}",
        )


def _register(note: BootNote) -> str:
    """How VirtualBox comes to know it again, where it is by now."""
    folder = boot_mounts.moved_to(note) or note.folder
    file = settings_file(replace(note, folder=folder))
    command = f"VBoxManage registervm {shlex.quote(str(file))}"
    return f"register it again: {command}"


def settings_file(note: BootNote) -> Path:
    """Where its settings are, unless its user gave it another name."""
    found = sorted(note.folder.glob("*.vbox"))
    usual = note.folder / f"{folder_name(note.name)}.vbox"
    return found[0] if len(found) == 1 else usual


def switch_on(site: Site, uuid: str) -> bool:
    """Starts the VM, or resumes it if it is paused; False: it is on.

    One that is off is started also if somebody has it open, as soon as that ends. Raises
    `VBoxManageError`.
    """

    def act() -> bool:
        state = site.vboxmanage.info(uuid).state  # it may be on by now, each time
        if state == "paused":
            site.vboxmanage.run("controlvm", uuid, "resume")
        elif state in STOPPED:
            PowerSwitch(site.vboxmanage, site.clock).start(uuid)
        else:
            return False
        return True

    return patiently(site.clock, act)
