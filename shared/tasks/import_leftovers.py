"""Removes what a restore or a rehearsal that was killed has left, by its note only."""

import os
import shutil
from pathlib import Path
from typing import Final

from shared.host.errors import LockedError, VBoxManageError
from shared.host.processes import SubprocessRunner
from shared.host.waits import pausing
from shared.serving import places
from shared.site import Site
from shared.tasks.import_note import ImportNote, find_imported, finish, log, settle
from shared.virtualbox import scratch, settings
from shared.virtualbox.boot_check import BootCheck
from shared.virtualbox.clone_parts import asked_for
from shared.virtualbox.export_errors import VmBusyError
from shared.virtualbox.inventory import Machine

#: How long a folder that was removed must stay away, and how long that is waited for: VBoxSVC may
#: still write settings when an import was cancelled.
_QUIET_SECONDS: Final = 0.5


_GONE_SECONDS: Final = 15.0


#: VBoxSVC goes on with the import of a VBoxManage that was killed, and writes all the time.
_STILL_SECONDS: Final = 60.0


def remove_left(site: Site, note: ImportNote) -> None:
    """Removes what a process that was killed has left; a VM that is whole stays.

    Raises `VmBusyError` while VirtualBox may still be at work on it, `VBoxManageError`; the note
    stays then, and the next one tries again.
    """
    if _is_whole(site, note):
        settle(note)
        return
    imported = bool(note.uuid) or find_imported(site, note) is not None
    if not imported and _is_written(site, note.folder):
        raise VmBusyError(
            f"VirtualBox may still write to {note.folder}, for a process that was killed",
            hint=f"it is removed when nothing was written there for {_STILL_SECONDS:.0f} s",
        )
    remove(site, note)


def remove(site: Site, note: ImportNote) -> None:
    """Removes what the note names, and the note. Nobody works on it any more.

    Raises `VmBusyError` while a VBoxManage imports it, `VBoxManageError`, and then the note stays.
    """
    end = site.clock.monotonic() + _GONE_SECONDS
    pause = pausing(site.clock.sleep, f"VirtualBox, which imports {note.name}", _GONE_SECONDS)
    while asked_for(note.name, "import"):
        if site.clock.monotonic() > end:
            raise VmBusyError(
                f"VirtualBox still imports {note.name}",
                hint="it is removed when that has ended",
            )
        pause(_QUIET_SECONDS)
    _bring_back(site, note)
    machines = below(site, note.folder)
    for machine in machines:
        if not (note.mark.names(machine) and _is_inside(machine.settings_file, note.folder)):
            raise VBoxManageError(
                f"{machine.words} lies in {note.folder}, which vmbackup has made, or has a disk "
                f"there",
                hint="move that VM and its disk elsewhere; the rest is removed by the next tick"
                if machine.name is not None
                else f"does VBoxSVC see that folder under the same path? `VBoxManage unregistervm "
                f"{machine.uuid}` takes it out of the list; the rest is removed by the next tick",
            )
    for machine in machines:
        log.info("removing %s", machine.name)
        BootCheck(site.vboxmanage, site.clock, machine).remove()
    _unmount(note.folder)
    _remove_folder(site, note)
    finish(note)


def below(site: Site, folder: Path) -> list[Machine]:
    """The VMs that lie in a folder, or have a disk there.

    Raises `VBoxManageError` if VirtualBox lists none and has no registry either: that answer proves
    nothing.
    """
    inventory = site.inventory()
    home = settings.home(site.configuration.virtualbox.home, os.environ)
    if not inventory and not (home / "VirtualBox.xml").exists() and _has_settings(folder):
        raise VBoxManageError(
            f"VirtualBox lists no VM, and there is no {home / 'VirtualBox.xml'}: {folder} stays",
            hint=(
                "is virtualbox.home (or VBOX_USER_HOME) right, and is this the user who owns "
                "the VMs?"
            ),
        )
    return [
        machine
        for machine in inventory.values()
        if any(
            _is_inside(path, folder)
            for path in (machine.settings_file, *(image.location for image in machine.images))
        )
    ]


def _has_settings(folder: Path) -> bool:
    """What cannot be listed, like a mount whose server has ended, is passed over."""
    return any(name.endswith(".vbox") for _, _, names in os.walk(folder) for name in names)


def _is_inside(path: str, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _is_whole(site: Site, note: ImportNote) -> bool:
    """Whether the restored VM has got to its place: the process was killed after that."""
    machine = site.inventory().get(note.uuid) if note.uuid and note.place else None
    return (
        machine is not None
        and note.place is not None
        and os.path.realpath(os.path.dirname(machine.settings_file)) == os.path.realpath(note.place)
    )


def _bring_back(site: Site, note: ImportNote) -> None:
    """A folder that was on its way to its place, and whose VM is not registered there, returns.

    It is known by the mark in it, which has the note's random name.
    """
    if note.place is None or os.path.lexists(note.folder) or not note.place.is_dir():
        return
    machine = site.inventory().get(note.uuid)
    if scratch.mark_in(note.place) == note.mark:
        if machine is not None:
            site.vboxmanage.run("unregistervm", machine.uuid)
        note.place.rename(note.folder)


def _is_written(site: Site, folder: Path) -> bool:
    """What is gone when it is looked at is somebody's work, too."""
    now = site.clock.now().timestamp()
    written = []
    for place, _, names in os.walk(folder):
        for name in names:
            if name in (scratch.MARK, scratch.NEW_MARK):
                continue
            try:
                written.append(os.lstat(os.path.join(place, name)).st_mtime)
            except FileNotFoundError:
                return True
            except OSError:  # as in a mount whose server has ended
                continue
    return any(0 <= now - moment < _STILL_SECONDS for moment in written)


def _unmount(folder: Path) -> None:
    """Ends the server of disks that the VM had from its copy. Raises `VBoxManageError`."""
    try:
        places.unmount_below(folder, SubprocessRunner())
    except LockedError as error:
        raise VBoxManageError(error.message, hint="the next tick tries again") from None


def _remove_folder(site: Site, note: ImportNote) -> None:
    """Removes the folder until it stays away. Raises `VBoxManageError` if it does not."""
    scratch.remove(note.folder, note.name, known=note.disks if note.uuid else None)
    end = site.clock.monotonic() + _GONE_SECONDS
    pause = pausing(site.clock.sleep, f"{note.folder} to stay away", _GONE_SECONDS)
    pause(_QUIET_SECONDS)
    while os.path.lexists(note.folder):
        if site.clock.monotonic() > end:
            raise VBoxManageError(
                f"{note.folder} comes back when it is removed", hint="the next tick tries again"
            )
        shutil.rmtree(note.folder, ignore_errors=True)
        pause(_QUIET_SECONDS)
