"""Having VirtualBox make a VM of a copy under a random name, which is noted before.

What is made is given its own name and place by a restore, and removed by a rehearsal.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shared.copies.space_needed import human
from shared.host.errors import CopyError, VBoxManageError
from shared.site import Site
from shared.tasks import import_note
from shared.tasks.import_note import ImportNote
from shared.virtualbox import unregistering
from shared.virtualbox.importing import ImportPlan, RunningImport
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import SettingsError, read_file
from shared.virtualbox.trial_settings import trial_settings

log: Final = logging.getLogger(__name__)


class ImportStalledError(CopyError):
    """An import did not move any more: the NAS or the disk of this host stands still."""


#: Told what is being done (`verify`, `import`) and how far it is, in percent.
Progress = Callable[[str, float], None]

_CANCEL_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.2


def require_room(base: Path, needed: int) -> None:
    """Raises `CopyError` if fewer bytes than `needed` are free where a VM is to be made."""
    existing = next(parent for parent in (base, *base.parents) if parent.exists())
    room = shutil.disk_usage(existing).free
    if room < needed:
        raise CopyError(
            (
                f"there is no room for the VM in {base}: it needs about {human(needed)}, "
                f"{human(room)} are free"
            ),
            hint="make room, or restore to another place: --to DIRECTORY",
        )


def make(
    site: Site, what: ImportPlan, note: ImportNote, progress: Progress
) -> tuple[ImportNote, Machine]:
    """Imports the copy as the VM that is noted; returns the note that has its UUID, and the VM.

    Raises what went wrong, with nothing removed yet.
    """
    _import(site, what, note, progress)
    machine = import_note.find_imported(site, note)
    if machine is None:
        raise VBoxManageError(
            (
                f"VirtualBox says that it imported {what.name!r}, but has registered nothing in "
                f"{note.folder}"
            ),
            hint="does VBoxSVC see that folder under the same path?",
        )
    return import_note.identify(note, machine.uuid), machine


def cut_off(site: Site, note: ImportNote) -> Machine:
    """Leaves the imported VM only what may stay of it when it is started on trial.

    Raises `VBoxManageError`, and then it must not be started.
    """
    try:
        unregister(site, note)
        data = read_file(str(note.settings_file), site.clock.sleep)
        note.settings_file.write_bytes(trial_settings(data, note.folder))
    except SettingsError as error:
        raise VBoxManageError(f"the settings of the imported VM cannot be used: {error}") from None
    except OSError as error:
        raise VBoxManageError(f"cannot write {note.settings_file}: {error.strerror}") from None
    return register(site, note.uuid, note.settings_file)


def unregister(site: Site, note: ImportNote) -> None:
    """Unregisters the VM that is noted; its files stay. Raises `VBoxManageError`."""
    unregistering.unregister(site.vboxmanage, site.clock, note.uuid, str(note.settings_file))


def register(site: Site, uuid: str, settings_file: Path) -> Machine:
    """Registers a VM that was made. Raises `VBoxManageError` if it cannot be used then."""
    site.vboxmanage.run("registervm", str(settings_file))
    machine = site.inventory().get(uuid)
    if machine is None or not machine.accessible:
        why = machine.reason if machine is not None else "it does not list it"
        raise VBoxManageError(f"VirtualBox cannot use {settings_file}: {why}")
    return machine


def _import(site: Site, what: ImportPlan, note: ImportNote, progress: Progress) -> None:
    """Runs the import to its end, or cancels it.

    On whatever interrupts us, and when it stands still for `backup.stall_seconds`.
    """
    clock, limit = site.clock, site.configuration.backup.stall_seconds
    running = RunningImport(
        site.vboxmanage, what.source, note.name, note.settings_file, keep_macs=what.keep_macs
    )
    try:
        seen, moved_at = (0, 0), clock.monotonic()
        while not running.poll():
            now = (running.progress(), running.written())
            if now != seen:
                seen, moved_at = now, clock.monotonic()
            elif clock.monotonic() - moved_at > limit:
                raise ImportStalledError(
                    f"the import has not moved for {limit:.0f} s (at {now[0]} %) and was cancelled",
                    hint="look at the NAS",
                )
            progress("import", now[0])
            clock.sleep(_POLL_SECONDS)
    except BaseException:
        if not running.cancel(_CANCEL_SECONDS):
            log.warning(
                "VBoxManage does not cancel the import; VirtualBox may go on with it by itself"
            )
        raise
    running.result()
