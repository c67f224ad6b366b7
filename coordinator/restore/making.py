"""Giving a VM that was made of a copy its own name and place when it is whole.

All of it is noted before it is made (`shared.tasks.import_note`), so that nothing of it is left
when that fails or is killed.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.host.errors import UsageError, VBoxManageError, VmBackupError
from shared.host.notes import write_flushed
from shared.site import Site
from shared.tasks import import_leftovers, import_note
from shared.tasks.import_note import ImportNote
from shared.tasks.noted_import import register, unregister
from shared.virtualbox.clone_parts import is_below
from shared.virtualbox.importing import ImportPlan, folder_name
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import SettingsError, read_file
from shared.virtualbox.settings_writing import renamed

log: Final = logging.getLogger(__name__)


@contextlib.contextmanager
def removed_if_it_fails(site: Site, note: ImportNote) -> Iterator[None]:
    """Within, whatever goes wrong removes what was made; what cannot be removed is reported.

    The note stays then, and the next `database` worker tries again.
    """
    try:
        yield
    except BaseException:
        try:
            import_leftovers.remove(site, note)
        except VmBackupError as error:
            hint = f" ({error.hint})" if error.hint else ""
            log.error("what was imported is not removed yet: %s%s", error.message, hint)  # noqa: TRY400
        raise


def move_to_place(site: Site, what: ImportPlan, note: ImportNote) -> Machine:
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
    machine = register(site, note.uuid, what.folder / settings_file)
    import_note.settle(note)
    return machine


def refuse_taken(site: Site, what: ImportPlan) -> None:
    """Raises `UsageError` if this host has a VM of that name, or something at that place.

    That includes a VM whose folder is gone, but which VirtualBox still knows there.
    """
    machines = site.inventory().values()
    taken = next((machine for machine in machines if machine.name == what.name), None)
    if taken is not None:
        raise UsageError(
            (
                f"this host has a VM {what.name!r} already ({{{taken.uuid}}}), which is never "
                f"overwritten"
            ),
            hint="give the new one another name: --as NAME",
        )
    for machine in machines:
        known = [machine.settings_file, *(image.location for image in machine.images)]
        if any(is_below(path, [what.folder]) for path in known):
            raise UsageError(
                f"VirtualBox still knows a VM {{{machine.uuid}}} in {what.folder}, which has "
                f"{'a disk' if os.path.exists(machine.settings_file) else 'its settings'} there",
                hint="another name (--as NAME) or place (--to DIR); or, if its files are gone for "
                f"good, make VirtualBox forget it first: VBoxManage unregistervm {machine.uuid}",
            )
    if os.path.lexists(what.folder):
        raise UsageError(
            f"{what.folder} is there already, and nothing is ever overwritten",
            hint="another name (--as) or place (--to)",
        )


def _write_under_its_name(site: Site, what: ImportPlan, note: ImportNote) -> str:
    """Writes the settings of the VM, which is not registered, under its own name."""
    name = folder_name(what.name)
    data = renamed(read_file(str(note.settings_file), site.clock.sleep), what.name)
    write_flushed(note.folder / f"{name}.vbox", data)
    with contextlib.suppress(FileNotFoundError):
        (note.folder / f"{note.name}.nvram").rename(note.folder / f"{name}.nvram")
    for old in (note.settings_file, Path(f"{note.settings_file}-prev")):
        old.unlink(missing_ok=True)
    return f"{name}.vbox"
