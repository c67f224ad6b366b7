"""What an import makes on a host, noted before it is made, and removed by that note only.

A restore and a rehearsal are alike: VirtualBox makes a VM with a random name in a folder that bears
it, too, is made exclusively and has a mark in it. Only a whole VM leaves that folder, for the place
and the name that it was restored for. So what is left of a process that was killed is certainly
ours, wherever VirtualBox put it and whoever makes VMs at the same time: nothing is removed because
of a name that somebody else may have chosen.

The note is a file in the state directory. It goes when nothing is left, or when the VM is whole.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from shared.host import notes
from shared.host.documents import load, read_own
from shared.host.errors import ConfigurationError, UsageError, VBoxManageError
from shared.site import Site
from shared.virtualbox import scratch, settings
from shared.virtualbox.boot_check import BootCheck
from shared.virtualbox.clones import asked_for
from shared.virtualbox.export_errors import VmBusyError
from shared.virtualbox.inventory import Machine

log: Final = logging.getLogger(__name__)

#: How long a folder that was removed must stay away, and how long that is waited for: VBoxSVC may
#: still write settings when an import was cancelled.
_QUIET_SECONDS: Final = 0.5
_GONE_SECONDS: Final = 15.0
#: VBoxSVC goes on with the import of a VBoxManage that was killed, and writes all the time.
_STILL_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Note:
    """What is noted in `file`: the copy becomes the VM `name`, in `folder`.

    `uuid` is empty until the VM is there; then `disks` are its own, as paths below the folder. A
    restored VM goes to `place` when it is whole; of a rehearsed one that is None. `parents` are
    directories that were not there before.
    """

    file: Path
    folder: Path
    name: str
    uuid: str = ""
    disks: tuple[str, ...] = ()
    place: Path | None = None
    parents: tuple[Path, ...] = ()

    @property
    def mark(self) -> scratch.Mark:
        """What is in the folder's mark."""
        return scratch.Mark(self.name, self.uuid)

    @property
    def settings_file(self) -> Path:
        """Where VirtualBox is told to put the settings of the VM that it imports."""
        return self.folder / f"{self.name}.vbox"


def set_up(note: Note) -> Note:
    """Writes the note, then makes the folder and its parents; returns the note with these.

    Raises `ConfigurationError`, `UsageError`.
    """
    missing = [parent for parent in note.folder.parents if not parent.exists()]
    note = replace(note, parents=tuple(missing))
    _write(note)
    try:
        note.folder.parent.mkdir(parents=True, exist_ok=True)
        scratch.make(note.folder, note.mark)
    except OSError as error:
        if isinstance(error, FileExistsError):
            note.file.unlink(missing_ok=True)  # what is there is not ours
        else:
            _finish(note)
        raise UsageError(
            f"cannot make {note.folder}: {error.strerror}",
            hint="the owner of the VMs must be able to write there; another place: --to",
        ) from None
    return note


def find_imported(site: Site, note: Note) -> Machine | None:
    """The VM that VirtualBox has made of the copy; None if there is none.

    Raises `VBoxManageError`.
    """
    real = os.path.realpath(note.settings_file)
    return next(
        (
            machine
            for machine in site.inventory().values()
            if os.path.realpath(machine.settings_file) == real and note.mark.names(machine)
        ),
        None,
    )


def identify(note: Note, uuid: str) -> Note:
    """Adds to the note the UUID and the disks of the VM that the copy has become."""
    known = replace(note, uuid=uuid, disks=tuple(scratch.disks_in(note.folder)))
    _write(known)
    scratch.write_mark(note.folder, known.mark)
    return known


def settle(note: Note) -> None:
    """The restored VM is whole and at its place: mark and note go."""
    if note.place is not None:
        (note.place / scratch.MARK).unlink(missing_ok=True)
    note.file.unlink(missing_ok=True)


def read(file: Path) -> Note | None:
    """The note in a file; None if there is no file. Raises `ConfigurationError`."""
    try:
        document = load(read_own(file))
        place = document.get("place")
        return Note(
            file,
            Path(str(document["folder"])),
            str(document["name"]),
            str(document["uuid"]),
            tuple(map(str, document["disks"])),
            Path(str(place)) if place else None,
            tuple(map(Path, document.get("parents", ()))),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigurationError(
            f"{file} cannot be read",
            hint="look for a VM vmbackup-restore-… or vmbackup-rehearsal-… and remove it, then "
            "this file",
        ) from None


def remove_left(site: Site, note: Note) -> None:
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


def remove(site: Site, note: Note) -> None:
    """Removes what the note names, and the note. Nobody works on it any more.

    Raises `VmBusyError` while a VBoxManage imports it, `VBoxManageError`, and then the note stays.
    """
    end = site.clock.monotonic() + _GONE_SECONDS
    while asked_for(note.name, "import"):
        if site.clock.monotonic() > end:
            raise VmBusyError(
                f"VirtualBox still imports {note.name}",
                hint="it is removed when that has ended",
            )
        site.clock.sleep(_QUIET_SECONDS)
    _bring_back(site, note)
    machines = below(site, note.folder)
    for machine in machines:
        if not (note.mark.names(machine) and _is_inside(machine.settings_file, note.folder)):
            raise VBoxManageError(
                (
                    f"the VM {machine.name!r} {{{machine.uuid}}} lies in {note.folder}, which "
                    f"vmbackup has made, or has a disk there"
                ),
                hint="move that VM and its disk elsewhere; the rest is removed by the next tick",
            )
    for machine in machines:
        log.info("removing %s", machine.name)
        BootCheck(site.vboxmanage, site.clock, machine).remove()
    _remove_folder(site, note)
    _finish(note)


def below(site: Site, folder: Path) -> list[Machine]:
    """The VMs that lie in a folder, or have a disk there.

    Raises `VBoxManageError` if VirtualBox lists none and has no registry either: that answer proves
    nothing.
    """
    inventory = site.inventory()
    home = settings.home(site.configuration.virtualbox.home, os.environ)
    if not inventory and not (home / "VirtualBox.xml").exists() and any(folder.rglob("*.vbox")):
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


def _is_inside(path: str, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _is_whole(site: Site, note: Note) -> bool:
    """Whether the restored VM has got to its place: the process was killed after that."""
    machine = site.inventory().get(note.uuid) if note.uuid and note.place else None
    return (
        machine is not None
        and note.place is not None
        and os.path.realpath(os.path.dirname(machine.settings_file)) == os.path.realpath(note.place)
    )


def _bring_back(site: Site, note: Note) -> None:
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
    now = site.clock.now().timestamp()
    written = [
        os.lstat(os.path.join(place, name)).st_mtime
        for place, _, names in os.walk(folder)
        for name in names
        if name != scratch.MARK
    ]
    return any(0 <= now - moment < _STILL_SECONDS for moment in written)


def _remove_folder(site: Site, note: Note) -> None:
    """Removes the folder until it stays away. Raises `VBoxManageError` if it does not."""
    scratch.remove(note.folder, note.name, known=note.disks if note.uuid else None)
    end = site.clock.monotonic() + _GONE_SECONDS
    site.clock.sleep(_QUIET_SECONDS)
    while os.path.lexists(note.folder):
        if site.clock.monotonic() > end:
            raise VBoxManageError(
                f"{note.folder} comes back when it is removed", hint="the next tick tries again"
            )
        shutil.rmtree(note.folder, ignore_errors=True)
        site.clock.sleep(_QUIET_SECONDS)


def _finish(note: Note) -> None:
    """Nothing is left but empty directories that were made for it, and the note."""
    for parent in note.parents:
        with contextlib.suppress(OSError):
            parent.rmdir()
    note.file.unlink(missing_ok=True)


def _write(note: Note) -> None:
    document = {
        "folder": str(note.folder),
        "name": note.name,
        "uuid": note.uuid,
        "disks": list(note.disks),
        "place": str(note.place) if note.place else "",
        "parents": [str(parent) for parent in note.parents],
    }
    notes.Note(note.file, "what is being restored").write(document)


def files(state_directory: Path) -> Iterator[Path]:
    """The notes of restores, by `restore_file`."""
    yield from sorted(state_directory.glob("restore-*.json"))


def restore_file(state_directory: Path, token: str) -> Path:
    """Where the restore with this random token is noted."""
    return state_directory / f"restore-{token}.json"
