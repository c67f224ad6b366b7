"""What a rehearsal makes on a host, noted before it is made, and removed by that note only.

There is one note for each repository: so rehearsals of two repositories never remove what the other
one made. Nothing is removed because of its name.
"""

import hashlib
import logging
import re
import shutil
from pathlib import Path
from typing import Final

from shared.host.documents import read_own
from shared.host.errors import VBoxManageError
from shared.site import Site
from shared.tasks import import_leftovers, import_note
from shared.tasks.import_note import ImportNote
from shared.virtualbox import scratch
from shared.virtualbox.boot_check import BootCheck
from shared.virtualbox.inventory import Machine

log: Final = logging.getLogger(__name__)

#: Release 0.1 noted the path of a folder only, which was called after the copy, as the VM in it
#: was.
_OLD_NOTE: Final = "rehearsal-folder"
_OLD_NAME: Final = re.compile(r"vmbackup-rehearsal-[0-9]{8}T[0-9]{6}Z-[1-9][0-9]{0,17}")


def new_note(site: Site, base: Path) -> ImportNote:
    """A name and a folder below `base` that nobody else has. Nothing is made yet."""
    name = f"vmbackup-rehearsal-{scratch.new_token()}"
    return ImportNote(_note_file(site), base.absolute() / name, name)


def is_noted(site: Site) -> bool:
    """Whether a rehearsal of this repository is noted, of this release or of the first one."""
    return _note_file(site).exists() or _old_folder(site) is not None


def remove_noted(site: Site) -> None:
    """Removes what a rehearsal that was killed has left, if there is anything.

    Called with the lock of rehearsals held. Raises `VBoxManageError`, and then the note stays.
    """
    note = import_note.read(_note_file(site))
    if note is not None:
        import_leftovers.remove_left(site, note)
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


def _remove_old(site: Site, folder: Path) -> None:
    if not _OLD_NAME.fullmatch(folder.name) or folder.is_symlink():
        return
    for machine in import_leftovers.below(site, folder):
        if not _is_in_old(machine, folder):
            raise VBoxManageError(
                f"{machine.words} lies in {folder}, which a rehearsal has made: both stay",
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
