"""Throwing away a VM that runs from its copy: what was made for it, and nothing else.

It may be broken off at any point, and repeated.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from coordinator.booting import boot_hold, locks, machines, mounts
from shared.host.errors import LockedError, UsageError
from shared.host.host_lock import host_lock
from shared.host.printable import option, printable
from shared.host.processes import SubprocessRunner
from shared.site import Site
from shared.tasks import boot_note
from shared.tasks.boot_note import BootNote, Phase
from shared.virtualbox import scratch
from shared.virtualbox.boot_check import BootCheck
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import SettingsError, parse_machine, read_file
from shared.virtualbox.storage import Image
from shared.virtualbox.unregistering import unregister

_LOGS: Final = "Logs"
_SNAPSHOTS: Final = "Snapshots"
#: What VirtualBox calls the memory and the firmware variables of a VM that was saved.
_SAVED: Final = re.compile(r"[0-9]{4}(?:-[0-9]{2}){2}T(?:[0-9]{2}-){3}[0-9]{9}Z\.(?:sav|nvram)")


def discard(site: Site, note: BootNote) -> tuple[str, ...]:
    """Removes the VM and all that its guest wrote, and lets go of the copy.

    Answers what its user has put into its folder, which stays with that. Raises `UsageError` if it
    is another user's, or another VM stands on a disk of it; `LockedError`, `VBoxManageError`,
    `NasError`; what is left is removed by the same call again.
    """
    machines.require_owner(note)
    mounts.require_answer(note)
    kept: tuple[str, ...] = ()
    with locks.alone(note):
        found = boot_note.read(note.file)
        if found is not None:
            kept = remove(site, machines.followed(site, found))
    locks.forget(note)
    return kept


def remove(site: Site, note: BootNote) -> tuple[str, ...]:
    """Like `discard`, for whoever has the lock of the VM."""
    if note.phase == Phase.PLACED:
        raise UsageError(
            f"{note.name!r} needs its copy no more: it is an ordinary VM",
            hint=f"vmbackup-admin boot {option('--finish', note.name)}; then it can be deleted in "
            "VirtualBox",
        )
    ours = scratch.mark_in(note.folder) == note.mark
    if not ours and note.phase != Phase.MAKING and not _is_gone(note.folder):
        raise UsageError(
            f"{note.folder} was not made for {note.name!r}",
            hint="look what is in it, and move it elsewhere",
        )
    if not ours:
        machines.require_not_moved(note)  # its server and its guest would go on without the copy
    machine = machines.machine_of(site, note)
    made = _images_of(site, note, machine) if ours else ()
    _refuse_clones(site, note, made)
    if machine is not None:
        _unregister(site, machine)
    if ours:
        mounts.unmount(note, SubprocessRunner(), lazily=True)
        mounts.wait_for_server(note)
    kept = _remove_folder(note, made, ours=ours)
    boot_hold.discarded(site, note)
    note.file.unlink(missing_ok=True)
    if kept:
        (note.folder / scratch.MARK).unlink(missing_ok=True)
    return kept


def after_a_crash(site: Site, note: BootNote) -> BootNote | None:
    """What there is of a VM whose making was broken off: it is removed if its guest never ran.

    Else it is one that runs from its copy, as any other. Raises like `discard`.
    """
    if note.phase != Phase.MAKING:
        return note
    machines.require_owner(note)
    with host_lock(note.file.parent, note.file.stem) as mine:
        if not mine:
            raise LockedError(f"{note.name!r} is being made", hint="wait until that has ended")
        ours = scratch.mark_in(note.folder) == note.mark
        if ours and (note.folder / _LOGS).exists():  # made when the VM is started
            return boot_note.advanced(note, Phase.RUNNING)
        remove(site, note)
    locks.forget(note)
    return None


def _is_gone(folder: Path) -> bool:
    """Whether nothing is left of it, or only the folder itself, whose mark went before."""
    try:
        return not any(folder.iterdir())
    except OSError:
        return not os.path.lexists(folder)


def _unregister(site: Site, machine: Machine) -> None:
    if machine.accessible or machine.running:
        BootCheck(site.vboxmanage, site.clock, machine).remove()
    else:  # VirtualBox knows nothing of its state
        unregister(site.vboxmanage, site.clock, machine.uuid, machine.settings_file)


def _images_of(site: Site, note: BootNote, machine: Machine | None) -> tuple[Image, ...]:
    """The images in its folder that its settings name, also when it is not registered any more."""
    settings = machine.settings if machine is not None else None
    if settings is None:
        file = machines.settings_file(note)
        with contextlib.suppress(SettingsError):
            settings = parse_machine(read_file(str(file), site.clock.sleep))
    if settings is None or settings.uuid != note.uuid:
        return ()
    return tuple(settings.images.values())


def _refuse_clones(site: Site, note: BootNote, made: tuple[Image, ...]) -> None:
    """Raises `LockedError` if another VM stands on a disk that goes."""
    going = {disk.uuid for disk in note.disks}
    going |= {image.uuid for image in made if image.parent and _is_below(note, image.location)}
    for other in site.inventory().values():
        if other.uuid == note.uuid or going.isdisjoint(image.uuid for image in other.images):
            continue
        raise LockedError(
            f"{other.name or other.uuid!r} stands on a disk of {note.name!r}",
            hint="that one would be lost, too: remove it first, or make it a full clone",
        )


def _is_below(note: BootNote, location: str) -> bool:
    place = Path(os.path.realpath(note.folder / location))
    return place.is_relative_to(os.path.realpath(note.folder))


def _remove_folder(note: BootNote, made: tuple[Image, ...], *, ours: bool) -> tuple[str, ...]:
    """Removes what was made for the VM; answers what else is there. The mark goes last."""
    folder = note.folder
    if ours:
        try:
            for own in (note.filling, folder / _LOGS):
                if os.path.lexists(own):
                    shutil.rmtree(own)
            for file in _own_files(note, made):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be removed: {error.strerror}", hint="look what is in it"
            ) from None
        for own in (note.place, folder / _SNAPSHOTS):
            with contextlib.suppress(OSError):
                own.rmdir()
        kept = sorted(each.name for each in folder.iterdir() if each.name != scratch.MARK)
        if kept:
            return tuple(printable(name) for name in kept)
        (folder / scratch.MARK).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()  # whoever made it may have died before it was marked
    return ()


def _own_files(note: BootNote, made: tuple[Image, ...]) -> Iterator[Path]:
    """The settings come last: they alone tell the next one, after a crash, what else is ours."""
    for disk in note.disks:
        yield note.place / disk.file
    snapshots = note.folder / _SNAPSHOTS
    if snapshots.is_dir() and not snapshots.is_symlink():
        named = {os.path.realpath(note.folder / image.location) for image in made if image.parent}
        for file in snapshots.iterdir():
            if os.path.realpath(file) in named or _SAVED.fullmatch(file.name):
                yield file
    settings = machines.settings_file(note)
    for suffix in (".nvram", ".vbox-tmp", ".vbox-prev", ".vbox"):
        yield settings.with_suffix(suffix)
