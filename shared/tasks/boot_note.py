"""What runs from a copy on this host, noted before anything of it is made.

The note is a file in the state directory. It goes when the VM is an ordinary one, or was discarded;
until then the VM is unfinished: `vmfind` shows it, and no worker backs it up.
"""

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from shared.host import notes
from shared.host.documents import load, read_own
from shared.host.errors import ConfigurationError
from shared.host.process_identity import ProcessIdentity
from shared.virtualbox import scratch
from shared.virtualbox.inventory import Machine

log: Final = logging.getLogger(__name__)

#: The same as in the state directory, in the folder of the VM, for whoever lost that.
_BESIDE: Final = "note.json"
_MARKED: Final = re.compile("vmbackup-boot-[0-9a-f]{32}")


class Phase(StrEnum):
    """How far it is."""

    #: It is being made: its guest has not run yet.
    MAKING = "making"
    #: Its guest has run: what that wrote is in the VM's folder only.
    RUNNING = "running"
    #: Its disks have their names, and need neither copy nor server.
    PLACED = "placed"


@dataclass(frozen=True, slots=True)
class BootDisk:
    """A disk: its name in the `.ova`, the UUID of its image, and the name of its file."""

    member: str
    uuid: str
    file: str


@dataclass(frozen=True, slots=True)
class BootNote:
    """What is noted in `file`: the VM `name` in `folder` runs from the copy `stamp` of `vm`.

    `vm` is a UUID, `key` the name of its record. `index` is the digest of what the copy is read by.
    `repository` has that copy, `home` is the settings directory of the VirtualBox that has the VM;
    each is empty if an older release noted it.
    """

    file: Path
    folder: Path
    name: str
    uuid: str
    vm: str
    key: str
    stamp: str
    index: str
    disks: tuple[BootDisk, ...]
    since: str
    phase: Phase = Phase.MAKING
    repository: str = ""
    home: str = ""

    @property
    def mark(self) -> scratch.Mark:
        """What is in the folder's mark; a snapshot of its name has what the guest writes."""
        return scratch.Mark(f"vmbackup-{self.file.stem}", self.uuid)

    @property
    def place(self) -> Path:
        """Where the disks are under their names: served, and later as files."""
        return self.folder / "disks"

    @property
    def filling(self) -> Path:
        """Where they are filled, under temporary names."""
        return self.folder / "filling"

    def partial(self, disk: BootDisk) -> Path:
        """The file of a disk while it is filled."""
        return self.filling / f"{disk.file}.partial"

    @property
    def progress(self) -> notes.Note:
        """How far the filling is, as the server says."""
        return notes.Note(self.filling / "progress.json", "how far a disk is filled")

    @property
    def server(self) -> ProcessIdentity | None:
        """The process that served it last, which may be gone; None if that is not known."""
        said = self.progress.read()
        pid, started, born = (said.get(name) for name in ("pid", "started", "born"))
        if not isinstance(pid, int) or not isinstance(started, int | float):
            return None
        return ProcessIdentity(pid, float(started), str(born or ""))

    @property
    def whole(self) -> notes.Note:
        """That every block is there, was compared, and is on the disk."""
        return notes.Note(self.filling / "whole.json", "that a disk is filled")

    @property
    def is_whole(self) -> bool:
        """Whether that is noted, of this very copy."""
        return self.whole.read() == {"stamp": self.stamp, "index": self.index}

    @property
    def server_lock(self) -> str:
        """The lock of this host that its server holds as long as it lives."""
        return f"{self.file.stem}-server"


def new_file(state_directory: Path) -> Path:
    """Where another VM is noted that runs from a copy."""
    return state_directory / f"boot-{scratch.new_token()}.json"


def write(note: BootNote) -> None:
    """Notes it, in the place of what was noted. Raises `ConfigurationError`."""
    document: dict[str, Any] = {
        "folder": str(note.folder),
        "disks": [{"member": d.member, "uuid": d.uuid, "file": d.file} for d in note.disks],
        "phase": str(note.phase),
    }
    for field in ("name", "uuid", "vm", "key", "stamp", "index", "since", "repository", "home"):
        document[field] = getattr(note, field)
    notes.Note(note.file, "what runs from a copy").write(document)
    if note.filling.is_dir():  # it goes with that
        with contextlib.suppress(ConfigurationError):
            notes.Note(note.filling / _BESIDE, "what runs from a copy").write(document)


def advanced(note: BootNote, phase: Phase) -> BootNote:
    """Notes that it is further. Raises `ConfigurationError`."""
    note = replace(note, phase=phase)
    write(note)
    return note


def read(file: Path) -> BootNote | None:
    """The note in a file; None if there is no file. Raises `ConfigurationError`."""
    try:
        document = load(read_own(file))
        texts = {
            field: str(document[field])
            for field in ("name", "uuid", "vm", "key", "stamp", "index", "since")
        }
        disks = tuple(
            BootDisk(str(disk["member"]), str(disk["uuid"]), str(disk["file"]))
            for disk in document["disks"]
        )
        folder, phase = Path(str(document["folder"])), Phase(str(document["phase"]))
        texts |= {field: str(document.get(field, "")) for field in ("repository", "home")}
        if not folder.is_absolute() or any("/" in disk.file for disk in disks):
            raise ValueError("it names no place")
        return BootNote(file, folder, disks=disks, phase=phase, **texts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigurationError(
            f"{file} cannot be read",
            hint=f"it tells of a VM that runs from a copy: the same is in filling/{_BESIDE} in "
            "the folder of that VM, copy it from there",
        ) from None


def all_of(state_directory: Path) -> Iterator[BootNote]:
    """What is noted on this host, as far as it can be read; a warning tells of the rest."""
    for file in sorted(state_directory.glob("boot-*.json")):
        try:
            note = read(file)
        except ConfigurationError as error:
            log.warning("%s: %s", error.message, error.hint)
            continue
        if note is not None:
            yield note


def named(state_directory: Path, name: str) -> BootNote | None:
    """What is noted of the VM of that name."""
    return next((note for note in all_of(state_directory) if note.name == name), None)


def unfinished(state_directory: Path, machines: Iterable[Machine] = ()) -> frozenset[str]:
    """The UUIDs of the VMs that are not to be backed up yet.

    Of `machines` also those whose note is lost or damaged: the mark in the folder of each is there
    until it is an ordinary VM.
    """
    noted = {note.uuid for note in all_of(state_directory)}
    return frozenset(noted | {each.uuid for each in machines if _is_marked(each)})


def _is_marked(machine: Machine) -> bool:
    mark = scratch.mark_in(Path(machine.settings_file).parent)
    return mark is not None and bool(_MARKED.fullmatch(mark.name)) and mark.uuid == machine.uuid
