"""Folders for machines that this program itself makes.

Clones of live backups and rehearsed restores. They are nobody's VMs.

A user may give any name to a VM, so no name is a proof. Each such machine is made in a folder of
its own, which bears 128 random bits, is made exclusively, and has a mark in it before VirtualBox is
asked for anything: a file that names the machine. Whoever finds a machine below such a folder, and
named in its mark, knows that it is ours, whichever state database it belongs to.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host.documents import load
from shared.host.errors import VBoxManageError
from shared.host.notes import flush_directory
from shared.virtualbox.inventory import Machine

#: The mark in such a folder, and its name while it is written.
MARK: Final = "made-by-vmbackup.json"
NEW_MARK: Final = f"{MARK}.new"
_MAXIMUM_MARK: Final = 4096
_FOLDER: Final = re.compile(r"vmbackup-(?:rehearsal-|restore-)?[0-9a-f]{32}")
#: VirtualBox puts a machine into BASE/[GROUP/]NAME/NAME.vbox: the folder is among the first
#: ancestors of the settings file.
_ANCESTORS: Final = 6
_DISKS: Final = frozenset(
    {
        ".vdi",
        ".vmdk",
        ".vhd",
        ".vhdx",
        ".hdd",
        ".hds",
        ".qcow",
        ".qcow2",
        ".qed",
        ".img",
        ".raw",
        ".iso",
        ".ova",
        ".dmg",
        ".viso",
    }
)
_DIFFERENCE: Final = re.compile(r"\{[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}\.[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Mark:
    """Which machine a folder was made for.

    Its `name`, and its `uuid`, empty as long as VirtualBox has not chosen one.
    """

    name: str
    uuid: str = ""

    def names(self, machine: Machine) -> bool:
        """Whether it is this machine."""
        return machine.uuid == self.uuid if self.uuid else machine.name == self.name


def new_token() -> str:
    """128 random bits, as 32 hexadecimal digits."""
    return secrets.token_hex(16)


def make(folder: Path, mark: Mark) -> None:
    """Makes the folder, which must not be there, and marks it.

    Raises `FileExistsError` if it is there, `OSError`.
    """
    folder.mkdir(mode=0o700)
    write_mark(folder, mark)


def write_mark(folder: Path, mark: Mark) -> None:
    """Writes the mark durably, in the place of another one. Raises `OSError`.

    Nothing that is made in the folder later is there without it, also when the power was cut.
    """
    temporary = folder / NEW_MARK
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"name": mark.name, "uuid": mark.uuid}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / MARK)
    for changed in (folder, folder.parent):
        with contextlib.suppress(OSError):
            flush_directory(changed)


def mark_of(folder: Path) -> Mark | None:
    """The mark of a folder.

    None if it has none that can be read, is a link, or bears no name of ours.
    """
    if not _FOLDER.fullmatch(folder.name):
        return None
    return mark_in(folder)


def mark_in(folder: Path) -> Mark | None:
    """The mark in a folder of whatever name; None if it has none that can be read, or is a link.

    Only whoever knows the random name in it may conclude anything from that.
    """
    try:
        if folder.is_symlink():
            return None
        descriptor = os.open(
            folder / MARK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
        with open(descriptor, "rb") as file:
            document = load(file.read(_MAXIMUM_MARK))
        name, uuid = document["name"], document["uuid"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Mark(name, uuid) if isinstance(name, str) and isinstance(uuid, str) and name else None


def is_scratch(machine: Machine) -> bool:
    """Whether this program made the machine, for any state database.

    It lies below a folder whose mark names it.
    """
    for folder in list(Path(machine.settings_file).parents)[:_ANCESTORS]:
        mark = mark_of(folder)
        if mark is not None:
            return mark.names(machine)
    return False


def remove(folder: Path, name: str, *, known: Collection[str] | None = ()) -> None:
    """Removes the folder that was made for the machine `name`, and what is left of it there.

    May be repeated. Raises `VBoxManageError` and removes nothing if the folder is not ours, or
    holds a disk that VirtualBox did not make for that machine: one that is neither `known` (paths
    below the folder; None: all are) nor a differencing image. Raises it, too, if something cannot
    be removed.
    """
    if not os.path.lexists(folder):
        return
    mark = mark_of(folder)
    if mark is None:
        _remove_empty(folder)
        return
    if mark.name != name:
        raise VBoxManageError(
            f"{folder} was made for {mark.name!r}, not for {name!r}: it stays",
            hint="look what it is",
        )
    if foreign := next(
        (path for path in disks_in(folder) if known is not None and path not in known), None
    ):
        raise VBoxManageError(
            (
                f"{folder / foreign} was put into a folder that vmbackup made and is going to "
                f"remove: it stays"
            ),
            hint="move it elsewhere if you need it, delete it if not; the next tick goes on",
        )
    try:
        _remove_marked(folder)
    except OSError as error:
        raise VBoxManageError(
            f"{folder} cannot be removed: {error.strerror}", hint="the next tick tries again"
        ) from None


def _remove_marked(folder: Path) -> None:
    """The mark goes last.

    As long as it is there, whoever comes after a crash knows whose folder it is.
    """
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != MARK:
            entry.unlink(missing_ok=True)
    (folder / MARK).unlink()
    folder.rmdir()


def _remove_empty(folder: Path) -> None:
    """Without a mark, only an empty one can be ours: its maker died before it wrote the mark."""
    try:
        (folder / NEW_MARK).unlink(missing_ok=True)
        folder.rmdir()
    except OSError:
        raise VBoxManageError(
            f"{folder} has no mark of vmbackup in it: it stays",
            hint="look what it is, and move it away",
        ) from None


def disks_in(folder: Path) -> Iterator[str]:
    """Paths, below a folder, of the disks there.

    Without differencing images with a name and in a place as VirtualBox gives them.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            usual = os.path.basename(place) == "Snapshots" and _DIFFERENCE.fullmatch(name)
            if os.path.splitext(name)[1].lower() in _DISKS and not usual:
                yield os.path.relpath(os.path.join(place, name), folder)
