"""Which VMs of this host have run from a copy, and are ordinary ones by now.

Nothing depends on it: whoever asks for such a VM once more is told that it is done. The newest
hundred are remembered, each in a file of its own, which is written once.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host.errors import ConfigurationError
from shared.host.notes import Note
from shared.tasks.boot_note import BootNote

_REMEMBERED: Final = 100
_FIELDS: Final = ("name", "uuid", "vm", "stamp", "when")


@dataclass(frozen=True, slots=True)
class DoneBoot:
    """The VM `name` ran from the copy `stamp` of `vm` (a key), until it was an ordinary one."""

    name: str
    uuid: str
    vm: str
    stamp: str
    when: str


def remember(note: BootNote, when: str) -> None:
    """Notes that it is an ordinary VM since `when`; where that cannot be noted, it is not known."""
    state = note.file.parent
    document = {"name": note.name, "uuid": note.uuid, "vm": note.key, "stamp": note.stamp}
    with contextlib.suppress(ConfigurationError, OSError):
        path = state / note.file.name.replace("boot-", "booted-", 1)
        Note(path, "what ran from a copy").write({**document, "when": when})
        for old in _files(state)[:-_REMEMBERED]:
            old.unlink(missing_ok=True)


def named(state_directory: Path, name: str) -> list[DoneBoot]:
    """Those that were called so, the newest first, as far as they are remembered."""
    found = []
    with contextlib.suppress(OSError):
        for file in reversed(_files(state_directory)):
            with contextlib.suppress(ConfigurationError):
                document = Note(file, "what ran from a copy").read()
                values = [document.get(field) for field in _FIELDS]
                if document.get("name") == name and all(isinstance(each, str) for each in values):
                    found.append(DoneBoot(*map(str, values)))
    return found


def _files(state_directory: Path) -> list[Path]:
    """The oldest first. Raises OSError."""
    return sorted(state_directory.glob("booted-*.json"), key=lambda file: file.stat().st_mtime_ns)
