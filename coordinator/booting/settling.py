"""Making an ordinary VM of one that runs from its copy.

It may be broken off at any point, and repeated. A disk gets its name when every block of it is
there, was compared and is on the disk, and the VM is off: until then nothing has that name but what
is served, so that VirtualBox refuses to start the VM.
"""

import contextlib
import filecmp
import logging
import os
import shlex
import shutil
import stat
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Final

from coordinator.booting import boot_hold, locks, machines, mounts
from shared.host.clock import timestamp
from shared.host.errors import LockedError, UsageError, VBoxManageError
from shared.host.host_lock import host_lock
from shared.host.printable import option
from shared.host.processes import SubprocessRunner
from shared.site import Site
from shared.tasks import boot_done, boot_note
from shared.tasks.boot_note import BootDisk, BootNote, Phase
from shared.virtualbox import scratch
from shared.virtualbox.inventory import Machine
from shared.virtualbox.patience import patiently
from shared.virtualbox.vboxmanage import work_seconds
from shared.virtualbox.vboxmanage_output import MachineInfo

log: Final = logging.getLogger(__name__)

#: What is told of the snapshot, and stands in VirtualBox: its server settles while nobody looks.
_KEPT: Final = (
    "Other snapshots or linked clones stand on it; when they are gone, it may be deleted in "
    "VirtualBox."
)
_OFF: Final = frozenset({"poweroff", "aborted"})


def settle(site: Site, note: BootNote, *, serving: bool = False) -> str:
    """Makes an ordinary VM of it; empty, or why not yet. `serving`: by its server itself.

    Raises `UsageError` if the VM is another user's, VirtualBox does not list it, or it has another
    disk than was filled; `VBoxManageError`, also if what the guest wrote cannot be merged;
    `NasError` while the end of the hold cannot be noted. Note and hold stay then.
    """
    machines.require_owner(note)
    with host_lock(note.file.parent, note.file.stem) as mine:
        if not mine:
            return "another process works on it"
        found = boot_note.read(note.file)
        if found is not None and (reason := _settle(site, found, serving=serving)):
            return reason
    locks.forget(note)
    return ""


def is_begun(note: BootNote) -> bool:
    """Whether disks were given their names, or may have been: there is nothing to serve then."""
    if note.phase == Phase.PLACED:
        return True
    return note.is_whole and not all(note.partial(disk).exists() for disk in note.disks)


def is_off(info: MachineInfo) -> bool:
    """Whether nobody has the VM open, and it will read its disks anew when it is started."""
    return info.state in _OFF and not info.session


def _settle(site: Site, note: BootNote, *, serving: bool) -> str:
    if note.phase == Phase.MAKING:
        return "it is being made"
    machine = machines.moved_away(site, note)
    moved = machine is not None
    if note.phase != Phase.PLACED:
        if not note.is_whole:
            return "it is being filled"
        found = machine or machines.listed(site, note)
        if reason := _not_yet(site, note, found, moved=moved):
            return reason
        if not serving:
            mounts.wait_for_server(note)
        note = _place(note, machines.disks_elsewhere(found, note))
    machine = machine or machines.machine_of(site, note)
    if machine is None and machines.settings_file(note).exists():
        machine = machines.listed(site, note)
    # without one its user has deleted it since it was placed
    if machine is not None and (reason := _merge(site, note, machine)):
        return reason
    _let_go(site, note, gone=(note.place, note.folder) if moved else ())
    log.info("%s is an ordinary VM", note.name)
    return ""


def _our_snapshot(machine: Machine, note: BootNote) -> str:
    """The UUID of the snapshot that it was given; empty: its user has deleted it."""
    known = machine.settings.snapshots if machine.settings is not None else ()
    return next((each.uuid for each in known if each.name == note.mark.name), "")


def _not_yet(site: Site, note: BootNote, machine: Machine, *, moved: bool) -> str:
    if reason := _why_not_off(site.vboxmanage.info(note.uuid)):
        return reason
    if machine.settings is None:  # nobody knows where it has its disks
        raise VBoxManageError(machine.reason)
    if elsewhere := machines.disks_elsewhere(machine, note):
        if _our_snapshot(machine, note):  # else its user has merged it already
            _compare(note, elsewhere)
        if reason := _why_not_off(site.vboxmanage.info(note.uuid)):
            return reason  # it was started meanwhile: that takes minutes
    try:
        mounts.unmount(note, SubprocessRunner(), lazily=moved or not mounts.is_served(note))
    except LockedError as error:
        return error.message
    return ""


def _compare(note: BootNote, elsewhere: Mapping[BootDisk, Path]) -> None:
    """Raises `UsageError` if a disk is not what was filled, into which the snapshot would go.

    VirtualBox has copied it from what is served. One of which nothing is left here was an ordinary
    file before, and was moved itself.
    """
    for disk, place in elsewhere.items():
        ours = (note.partial(disk), note.place / disk.file)
        filled = next((each for each in ours if each.exists()), None)
        if filled is not None and not filecmp.cmp(place, filled, shallow=False):
            copy = f"cp -f {shlex.quote(str(filled))} {shlex.quote(str(place))}"
            raise UsageError(
                f"{place} is not what was filled",
                hint=f"while the VM is off: {copy}; then again: "
                f"vmbackup-admin boot {option('--finish', note.name)}",
            )
        with contextlib.suppress(OSError):  # else the merge says what is wrong
            place.chmod(place.stat().st_mode | stat.S_IWUSR)  # what is served can only be read
        _to_disk(place)


def _place(note: BootNote, elsewhere: Container[BootDisk]) -> BootNote:
    """Gives the disks their names. Nothing is served there any more.

    What its VM has elsewhere needs none: what was filled of that goes.
    """
    placed = [disk for disk in note.disks if disk not in elsewhere]
    for disk in placed:
        partial, target = note.partial(disk), note.place / disk.file
        if partial.exists():
            if os.path.lexists(target):
                raise UsageError(f"{target} is in the way", hint="move it elsewhere")
            partial.rename(target)
        elif not target.exists():
            raise UsageError(f"{target} and {partial} are gone", hint="bring one of them back")
    for folder in (note.place, note.filling) if placed else ():
        _to_disk(folder)
    return boot_note.advanced(note, Phase.PLACED)


def _why_not_off(info: MachineInfo) -> str:
    """Why its disks are left alone; empty: it is off."""
    if is_off(info):
        return ""
    if info.state in _OFF:
        return "somebody has it open"
    return f"it is {info.state}" + (": start it, and shut it down" if info.state == "saved" else "")


def _merge(site: Site, note: BootNote, machine: Machine) -> str:
    """What the guest wrote goes into the disks, unless its user took care of that; why not yet.

    Where its user has let more than one state begin there, nothing can be merged, nor need it be.
    """
    try:
        if machine.settings is None:
            raise VBoxManageError(machine.reason)
        if not (ours := _our_snapshot(machine, note)):
            return ""
        if reason := _why_not_off(site.vboxmanage.info(note.uuid)):
            return reason
        if _branches(site, note):
            words = ("snapshot", note.uuid, "edit", ours, f"--description={_KEPT}")
            patiently(site.clock, lambda: site.vboxmanage.run(*words))
            log.warning("%s keeps the snapshot %s. %s", note.name, note.mark.name, _KEPT)
            return ""
        merge = ("snapshot", note.uuid, "delete", ours)
        patiently(site.clock, lambda: site.vboxmanage.run_long(work_seconds(1 << 40), *merge))
    except VBoxManageError as error:
        raise VBoxManageError(
            f"{note.name!r} is filled, but keeps the snapshot {note.mark.name}, which cannot be "
            f"merged: {error.message}",
            hint=f"again: vmbackup-admin boot {option('--finish', note.name)}",
        ) from None
    return ""


def _branches(site: Site, note: BootNote) -> bool:
    """Whether more than one disk stands on one of its disks."""
    known = {
        image.uuid: image.parent
        for machine in site.inventory().values()
        if machine.settings is not None
        for image in machine.settings.images.values()
    }
    standing = Counter(known.values())
    return any(standing[disk.uuid] > 1 for disk in note.disks)


def _let_go(site: Site, note: BootNote, *, gone: Iterable[Path]) -> None:
    """Forgets it. The folders that are `gone` go, too, if nothing is left in them."""
    boot_hold.end(site, note)
    shutil.rmtree(note.filling, ignore_errors=True)
    (note.folder / scratch.MARK).unlink(missing_ok=True)
    for folder in gone:
        with contextlib.suppress(OSError):
            folder.rmdir()
    boot_done.remember(note, timestamp(site.clock.now()))
    note.file.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
