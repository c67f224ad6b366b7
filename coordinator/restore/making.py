"""Making a VM of a copy under a random name, and giving it its own name and place when it is whole.

All of it is noted before it is made (`shared.tasks.import_note`), so that nothing of it is left
when that fails or is killed.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from shared.host.errors import CopyError, UsageError, VBoxManageError, VmBackupError
from shared.site import Site
from shared.tasks import import_note
from shared.tasks.import_note import Note
from shared.virtualbox import unregistering
from shared.virtualbox.importing import ImportPlan, RunningImport, folder_name
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import SettingsError, read_file
from shared.virtualbox.settings_writing import renamed
from shared.virtualbox.trial_settings import trial_settings

log: Final = logging.getLogger(__name__)

#: Told what is being done (`verify`, `import`) and how far it is, in percent.
Progress = Callable[[str, float], None]

_CANCEL_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.2


@contextlib.contextmanager
def removed_if_it_fails(site: Site, note: Note) -> Iterator[None]:
    """Within, whatever goes wrong removes what was made; what cannot be removed is reported.

    The note stays then, and the next `database` worker tries again.
    """
    try:
        yield
    except BaseException:
        try:
            import_note.remove(site, note)
        except VmBackupError as error:
            log.error("what was imported is not removed yet: %s", error.message)  # noqa: TRY400
        raise


def make(site: Site, what: ImportPlan, note: Note, progress: Progress) -> tuple[Note, Machine]:
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


def cut_off(site: Site, note: Note) -> Machine:
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
    return register(site, note, note.settings_file)


def move_to_place(site: Site, what: ImportPlan, note: Note) -> Machine:
    """Gives the VM its own name and place, in one step: until then it has neither.

    Raises `UsageError` if somebody else has them by now, `VBoxManageError`.
    """
    refuse_taken(site, what)
    try:
        unregister(site, note)
        settings_file = _write_under_its_name(site, what, note)
        note.folder.rename(what.folder)
    except SettingsError as error:
        raise VBoxManageError(f"the settings of the imported VM cannot be used: {error}") from None
    except OSError as error:
        raise VBoxManageError(f"cannot move the VM to {what.folder}: {error.strerror}") from None
    machine = register(site, note, what.folder / settings_file)
    import_note.settle(note)
    return machine


def refuse_taken(site: Site, what: ImportPlan) -> None:
    """Raises `UsageError` if this host has a VM of that name, or something at that place."""
    taken = next(
        (machine for machine in site.inventory().values() if machine.name == what.name), None
    )
    if taken is not None:
        raise UsageError(
            (
                f"this host has a VM {what.name!r} already ({{{taken.uuid}}}); a restore never "
                f"overwrites one"
            ),
            hint="give the restored one another name: --as NAME",
        )
    if os.path.lexists(what.folder):
        raise UsageError(
            f"{what.folder} is there already; a restore never overwrites anything",
            hint="another name (--as) or place (--to)",
        )


def unregister(site: Site, note: Note) -> None:
    """Unregisters the VM that is noted; its files stay. Raises `VBoxManageError`."""
    unregistering.unregister(site.vboxmanage, site.clock, note.uuid, str(note.settings_file))


def register(site: Site, note: Note, settings_file: Path) -> Machine:
    """Registers the VM that is noted. Raises `VBoxManageError` if it cannot be used then."""
    site.vboxmanage.run("registervm", str(settings_file))
    machine = site.inventory().get(note.uuid)
    if machine is None or not machine.accessible:
        why = machine.reason if machine is not None else "it does not list it"
        raise VBoxManageError(f"VirtualBox cannot use {settings_file}: {why}")
    return machine


def _write_under_its_name(site: Site, what: ImportPlan, note: Note) -> str:
    """Writes the settings of the VM, which is not registered, under its own name."""
    name = folder_name(what.name)
    data = renamed(read_file(str(note.settings_file), site.clock.sleep), what.name)
    (note.folder / f"{name}.vbox").write_bytes(data)
    with contextlib.suppress(FileNotFoundError):
        (note.folder / f"{note.name}.nvram").rename(note.folder / f"{name}.nvram")
    for old in (note.settings_file, Path(f"{note.settings_file}-prev")):
        old.unlink(missing_ok=True)
    return f"{name}.vbox"


def _import(site: Site, what: ImportPlan, note: Note, progress: Progress) -> None:
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
                raise CopyError(
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
