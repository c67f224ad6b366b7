"""Making a VM of a copy without VirtualBox's import: unpacked on all cores, the NAS read once.

The disks are written while the copy is read, every digest is compared in the same pass, and the VM
is made of the settings that were kept beside the copy. Nothing is registered before every digest
was right. Where this is not possible, the reason is said, and VirtualBox imports the copy.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from shared.copies.catalogue import Copy
from shared.host.errors import CopyError, VBoxManageError
from shared.host.notes import write_flushed
from shared.ova.unpacking import Unpacker
from shared.ova.vdi_writing import DiskFile, TargetError, VdiFile
from shared.site import Site
from shared.tasks import import_note, verification
from shared.tasks.direct_plan import DirectPlan, NotDirectError
from shared.tasks.import_note import ImportNote
from shared.tasks.made_settings import NewDisk, UnknownSettingsError, made_settings
from shared.tasks.noted_import import Progress, register, unregister
from shared.virtualbox.importing import ImportPlan, folder_name

log: Final = logging.getLogger(__name__)


def make_directly(
    site: Site, copy: Copy, what: ImportPlan, how: DirectPlan, note: ImportNote, progress: Progress
) -> ImportNote:
    """Unpacks the copy into the folder that is noted, and registers it; the note with its UUID.

    Raises what went wrong, with nothing removed yet: `CopyError` if the copy is damaged,
    `NotDirectError` if VirtualBox refuses the settings, `TargetError`, `NasError`.
    """
    uuid = str(uuid4())
    disks = {
        name: NewDisk(str(uuid4()), f"{folder_name(what.name)}-disk{number:03}.vdi")
        for number, name in enumerate(how.disks, 1)
    }
    note = import_note.identify(note, uuid, [disk.file for disk in disks.values()])
    with _files(note.folder, disks, how) as files:
        unpack(copy, files, progress)
    try:
        settings = made_settings(
            how.kept,
            {how.disks[name][0]: disk for name, disk in disks.items()},
            name=note.name,
            uuid=uuid,
            keep_macs=what.keep_macs,
            with_host_access=what.with_host_access,
        )
        write_flushed(note.settings_file, settings)
        if how.nvram is not None:
            write_flushed(note.settings_file.with_suffix(".nvram"), how.nvram)
        register(site, note.uuid, note.settings_file)
    except UnknownSettingsError as error:
        raise NotDirectError(str(error)) from None
    except VBoxManageError as error:
        if uuid in site.inventory():  # what it cannot use it may list all the same
            unregister(site, note)
        note.settings_file.unlink(missing_ok=True)  # no VM is left that a look could miss
        raise NotDirectError(f"VirtualBox refuses its settings: {error.message}") from None
    except OSError as error:
        raise TargetError(error, note.settings_file) from None
    return note


def unpack(copy: Copy, files: Mapping[str, DiskFile], progress: Progress) -> None:
    """Reads the copy once, in full, and writes the disks of these names into the files.

    When it returns, every digest was right and the files are whole. Raises `CopyError`, `NasError`,
    `TargetError`.
    """
    with Unpacker() as unpacker:
        sinks = {name: unpacker.disk(name, file) for name, file in files.items()}

        def report(done: int, total: int) -> None:
            progress("restore", 100 * done / total if total else 100)

        verification.check(copy, report, sinks)
        for sink in sinks.values():
            sink.finish()


@contextmanager
def told_as_damage(copy: Copy) -> Iterator[None]:
    """Within, a `CopyError` says that the copy was not restored, and what to do."""
    try:
        yield
    except CopyError as error:
        raise CopyError(
            f"the copy {copy.stamp} is damaged and was not restored: {error.message}",
            hint=(
                "restore an older one (--copy previous); `vmbackup-admin verify VM` marks the "
                "damaged one"
            ),
        ) from None


@contextmanager
def _files(
    folder: Path, disks: Mapping[str, NewDisk], how: DirectPlan
) -> Iterator[dict[str, DiskFile]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                VdiFile(folder / disk.file, how.disks[name][1], UUID(disk.uuid))
            )
            for name, disk in disks.items()
        }
