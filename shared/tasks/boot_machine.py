"""What is seen of a VM that runs from a copy without asking VirtualBox, whose answer takes long."""

import os
import time
from pathlib import Path

from shared.host.configuration import Configuration
from shared.host.host_lock import is_held
from shared.tasks.boot_note import BootNote, Phase
from shared.virtualbox import settings
from shared.virtualbox.boot_check import processes_of

_REGISTRY = "VirtualBox.xml"


def home_of(configuration: Configuration) -> Path:
    """Where VirtualBox notes which VMs it has. Raises `ConfigurationError`."""
    return settings.home(configuration.virtualbox.home, os.environ)


def is_on(note: BootNote) -> bool:
    """Whether a process of VirtualBox runs it."""
    return any(processes_of(note.uuid))


def is_unlisted(note: BootNote) -> bool:
    """Whether the VirtualBox in which it was begun lists it no more: its user has deleted it there.

    Not while anybody works on it, nor where that cannot be read. One that an older release began
    says nothing of its VirtualBox: it counts as listed. So does one whose settings cannot be used.
    """
    if not note.home or note.phase != Phase.RUNNING:
        return False
    try:
        data = settings.read_file(str(Path(note.home) / _REGISTRY), time.sleep)
        listed = note.uuid in settings.parse_registry(data).machines
    except settings.SettingsError:
        return False
    # whoever discards it has the lock until nothing is noted of it
    return not listed and not is_held(note.file.parent, note.file.stem) and note.file.exists()


def settings_left(note: BootNote) -> Path | None:
    """The file by which VirtualBox would take it in again; None if that was deleted, too."""
    found = list(note.folder.glob("*.vbox"))
    return found[0] if len(found) == 1 else None
