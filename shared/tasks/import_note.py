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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from shared.host import notes
from shared.host.documents import load, read_own
from shared.host.errors import ConfigurationError, UsageError
from shared.site import Site
from shared.virtualbox import scratch
from shared.virtualbox.inventory import Machine

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImportNote:
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


def set_up(note: ImportNote) -> ImportNote:
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
            finish(note)
        raise UsageError(
            f"cannot make {note.folder}: {error.strerror}",
            hint="the owner of the VMs must be able to write there; another place: --to",
        ) from None
    return note


def find_imported(site: Site, note: ImportNote) -> Machine | None:
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


def identify(note: ImportNote, uuid: str, disks: Iterable[str] | None = None) -> ImportNote:
    """Adds to the note the UUID and the disks of the VM that the copy becomes.

    `disks` are paths below the folder that are going to be made there; None: those that are there.
    """
    made = scratch.disks_in(note.folder) if disks is None else disks
    known = replace(note, uuid=uuid, disks=tuple(made))
    _write(known)
    scratch.write_mark(note.folder, known.mark)
    return known


def settle(note: ImportNote) -> None:
    """The restored VM is whole and at its place: mark and note go."""
    if note.place is not None:
        (note.place / scratch.MARK).unlink(missing_ok=True)
    note.file.unlink(missing_ok=True)


def read(file: Path) -> ImportNote | None:
    """The note in a file; None if there is no file. Raises `ConfigurationError`."""
    try:
        document = load(read_own(file))
        place = document.get("place")
        return ImportNote(
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


def finish(note: ImportNote) -> None:
    """Nothing is left but empty directories that were made for it, and the note."""
    for parent in note.parents:
        with contextlib.suppress(OSError):
            parent.rmdir()
    note.file.unlink(missing_ok=True)


def _write(note: ImportNote) -> None:
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
