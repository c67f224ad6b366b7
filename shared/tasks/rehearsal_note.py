"""What a rehearsal makes on a host, noted before it is made, and removed by that note only.

The note is a file in the state directory, one for each repository: so rehearsals of two
repositories never remove what the other one made. Nothing is removed because of its name.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from shared.host.documents import load, read_own
from shared.host.errors import ConfigurationError, UsageError, VBoxManageError
from shared.site import Site
from shared.virtualbox import scratch, settings
from shared.virtualbox.boot_check import BootCheck
from shared.virtualbox.clones import asked_for
from shared.virtualbox.export_errors import VmBusyError
from shared.virtualbox.inventory import Machine

log: Final = logging.getLogger(__name__)

#: Release 0.1 noted the path of a folder only, which was called after the copy, as the VM in it
#: was.
_OLD_NOTE: Final = "rehearsal-folder"
_OLD_NAME: Final = re.compile(r"vmbackup-rehearsal-[0-9]{8}T[0-9]{6}Z-[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Note:
    """What is noted of a rehearsal: the copy becomes the VM `name`, below `folder`.

    `uuid` is empty until the VM is there; then `disks` are its own, as paths below the folder.
    """

    folder: Path
    name: str
    uuid: str = ""
    disks: tuple[str, ...] = ()


def new_note(base: Path) -> Note:
    """A name and a folder below `base` that nobody else has. Nothing is made yet."""
    name = f"vmbackup-rehearsal-{scratch.new_token()}"
    return Note(base.absolute() / name, name)


def set_up(site: Site, note: Note) -> None:
    """Writes the note, then makes the folder. Raises `ConfigurationError`, `UsageError`."""
    _write(site, note)
    try:
        note.folder.parent.mkdir(parents=True, exist_ok=True)
        scratch.make(note.folder, scratch.Mark(note.name))
    except OSError as error:
        if isinstance(error, FileExistsError):
            _note_file(site).unlink(missing_ok=True)  # what is there is not ours
        raise UsageError(
            f"cannot make {note.folder}: {error.strerror}",
            hint="the owner of the VMs must be able to write there",
        ) from None


def identify(site: Site, note: Note, uuid: str) -> Note:
    """Adds to the note the UUID and the disks of the VM that the copy has become."""
    known = replace(note, uuid=uuid, disks=tuple(scratch.disks_in(note.folder)))
    _write(site, known)
    scratch.write_mark(note.folder, scratch.Mark(note.name, uuid))
    return known


def remove_noted(site: Site) -> None:
    """Removes what the note names, if there is one.

    Raises `VBoxManageError`, and then the note stays.
    """
    note = _read(site)
    if note is not None:
        _remove(site, note)
        _note_file(site).unlink(missing_ok=True)
    if (folder := _old_folder(site)) is not None:
        _remove_old(site, folder)
        (site.configuration.host.state_directory / _OLD_NOTE).unlink()


def is_old(site: Site, machine: Machine) -> bool:
    """Whether a VM was made by a killed rehearsal of release 0.1, and lies where its note says."""
    if not _OLD_NAME.fullmatch(machine.name or ""):
        return False
    folder = _old_folder(site)
    return folder is not None and _is_in_old(machine, folder)


def _old_folder(site: Site) -> Path | None:
    """The folder that a note of release 0.1 names; None if there is none that can be read."""
    try:
        return Path(read_own(site.configuration.host.state_directory / _OLD_NOTE).decode("utf-8"))
    except (OSError, ValueError):
        return None


def _is_in_old(machine: Machine, folder: Path) -> bool:
    return (
        _OLD_NAME.fullmatch(folder.name) is not None
        and machine.name == folder.name
        and Path(machine.settings_file).parent == folder
    )


def _remove(site: Site, note: Note) -> None:
    if asked_for(note.name, "import"):
        raise VmBusyError(
            f"VirtualBox still imports {note.name}, of a rehearsal that was killed",
            hint="wait until that has ended",
        )
    mark = scratch.Mark(note.name, note.uuid)
    for machine in _below(site, note.folder):
        if not mark.names(machine) or not Path(machine.settings_file).is_relative_to(note.folder):
            raise VBoxManageError(
                (
                    f"the VM {machine.name!r} {{{machine.uuid}}} lies in {note.folder}, which a "
                    f"rehearsal has made, or has a disk there"
                ),
                hint="move that VM and its disk elsewhere; the next rehearsal removes the rest",
            )
    for machine in _below(site, note.folder):
        log.info("removing %s", machine.name)
        BootCheck(site.vboxmanage, site.clock, machine).remove()
    scratch.remove(note.folder, note.name, known=note.disks if note.uuid else None)


def _below(site: Site, folder: Path) -> list[Machine]:
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
    paths = {
        machine.uuid: [machine.settings_file, *(image.location for image in machine.images)]
        for machine in inventory.values()
    }
    return [
        machine
        for machine in inventory.values()
        if any(Path(path).is_relative_to(folder) for path in paths[machine.uuid])
    ]


def _remove_old(site: Site, folder: Path) -> None:
    if not _OLD_NAME.fullmatch(folder.name) or folder.is_symlink():
        return
    for machine in _below(site, folder):
        if not _is_in_old(machine, folder):
            raise VBoxManageError(
                f"the VM {machine.name!r} lies in {folder}, which a rehearsal has made: both stay",
                hint="move it elsewhere",
            )
        log.warning("removing %s, which a rehearsal that was killed has left", machine.name)
        BootCheck(site.vboxmanage, site.clock, machine).remove()
    shutil.rmtree(folder, ignore_errors=True)


def _note_file(site: Site) -> Path:
    repository = hashlib.sha256(
        site.database.version.repository.encode("utf-8", "surrogateescape")
    ).hexdigest()[:16]
    return site.configuration.host.state_directory / f"rehearsal-{repository}.json"


def _write(site: Site, note: Note) -> None:
    file = _note_file(site)
    try:
        temporary = file.with_suffix(".new")
        temporary.write_text(
            json.dumps({**asdict(note), "folder": str(note.folder)}), encoding="utf-8"
        )
        temporary.replace(file)
    except OSError as error:
        raise ConfigurationError(
            f"cannot note in {file.parent} what is being rehearsed: {error.strerror}",
            hint="set host.state_directory to one that this user may write",
        ) from None


def _read(site: Site) -> Note | None:
    try:
        document = load(read_own(_note_file(site)))
        return Note(
            Path(str(document["folder"])),
            str(document["name"]),
            str(document["uuid"]),
            tuple(map(str, document["disks"])),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(
            f"{_note_file(site)} cannot be read",
            hint="look for a VM vmbackup-rehearsal-… and remove it, then this file",
        ) from None
