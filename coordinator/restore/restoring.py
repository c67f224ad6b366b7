"""Restoring a copy as a new VM of this host.

Nothing that is there is overwritten, and what fails leaves nothing behind: VirtualBox imports under
a random name into a folder of that name, which is noted before it is made. Only a whole VM gets its
own name and place. What a killed restore leaves is removed by the `database` worker.

It needs the NAS for reading only and takes no claim, so that a VM can be restored whatever holds
its record up.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from coordinator.restore.completing import RestoreDifference, complete
from coordinator.restore.direct import make_directly, told_as_damage
from coordinator.restore.kept_places import refuse_kept_place
from coordinator.restore.making import move_to_place, refuse_taken, removed_if_it_fails
from shared.copies.catalogue import Copy
from shared.copies.names import Suffix, final_name
from shared.copies.side_files import member_names
from shared.host.clock import timestamp
from shared.host.errors import CopyError, UsageError
from shared.site import Site
from shared.state.records import Restoration
from shared.state.rules import copies
from shared.tasks import abandoned_imports, import_note, verification
from shared.tasks.direct_plan import (
    DirectPlan,
    NotDirectError,
    kept_file,
    kept_settings,
    plan_directly,
    side_files,
)
from shared.tasks.import_note import ImportNote
from shared.tasks.noted_import import Progress, make, require_room
from shared.virtualbox import scratch
from shared.virtualbox.importing import (
    ImportPlan,
    default_folder,
    refuse_unsafe,
    refuse_unusable_name,
)

log: Final = logging.getLogger(__name__)

#: The side files of which a restore puts something back. Saved memory does not come back.
_PUT_BACK: Final[tuple[Suffix, ...]] = ("vbox", "nvram")


@dataclass(frozen=True, slots=True)
class Restored:
    """A VM that was made of a copy.

    `imported_because` says why VirtualBox had to import it; empty if it was unpacked directly.
    """

    name: str
    uuid: str
    settings_file: str
    stamp: str
    difference: RestoreDifference
    imported_because: str = ""


def refuse_mistyped(place: Path) -> None:
    """Whether something can be made at `place`, of which only the last name may be new.

    Raises `UsageError` if even the directory above is missing: a slip, or a disk that is not
    mounted, and what was made there would fill the disk below.
    """
    above = place.absolute().parent
    if not place.is_dir() and not above.is_dir():
        raise UsageError(
            f"there is no directory {above}, in which {place.name} could be made",
            hint="is it typed as it was meant, and what it lies on mounted? Else make it first",
        )


def plan(
    site: Site,
    copy: Copy,
    *,
    name: str | None = None,
    folder: Path | None = None,
    keep_macs: bool = True,
    with_host_access: bool = False,
) -> ImportPlan:
    """What is to be made of a copy.

    By default a VM of the original's name, where VirtualBox puts new VMs.

    Raises `UsageError` if that name or folder is taken on this host or kept for something else,
    `CopyError` if the copy must not be imported as it is or has no room.
    """
    if copy.sidecar is None:
        raise CopyError(
            f"the copy {copy.stamp} cannot be used: {copy.problem}",
            hint="another one: `vmbackup-admin copies` shows what there is",
        )
    source = copy.directory / final_name(copy.stamp, "ova")
    base = (folder or default_folder(site.vboxmanage)).absolute()
    made = ImportPlan(
        source,
        copy.sidecar.vm if name is None else name,
        base,
        keep_macs,
        kept=kept_file(copy, "vbox"),
        nvram=kept_file(copy, "nvram"),
        left_out=copy.sidecar.left_out,
        with_host_access=with_host_access,
    )
    refuse_unusable_name(made.name)
    refuse_kept_place(site.configuration.nas, base)
    refuse_taken(site, made)
    refuse_unsafe(member_names(copy.directory, source.name))
    require_room(base, max(copy.size, copy.sidecar.source_bytes))
    return made


def bring_back(site: Site, copy: Copy, what: ImportPlan, progress: Progress) -> Restored:
    """Makes the VM: directly, or by an import where that is not possible.

    On any failure, and when it is interrupted, nothing of it is left. Every byte of the copy was
    compared with its digests before anything is registered. The settings that were kept are read
    once: those that are used are those that were compared.

    Raises what went wrong.
    """
    kept = kept_settings(what)
    try:
        how = plan_directly(what, kept)
        return _restore_directly(site, copy, what, how, progress)
    except NotDirectError as error:
        log.info("VirtualBox imports the copy %s: %s", copy.stamp, error)
        verify(copy, progress, {} if kept is None else {"vbox": kept})
        restored = restore(site, copy.stamp, what, progress, kept)
        return replace(restored, imported_because=str(error))


def _restore_directly(
    site: Site, copy: Copy, what: ImportPlan, how: DirectPlan, progress: Progress
) -> Restored:
    _verify_side_files(copy, side_files(what, how))
    note = _new_note(site, what)
    with abandoned_imports.working(site.configuration.host.state_directory, note.file):
        note = import_note.set_up(note)
        with removed_if_it_fails(site, note):
            with told_as_damage(copy):
                note = make_directly(site, copy, what, how, note, progress)
            return _complete(site, copy.stamp, what, note, how.kept)


def verify(
    copy: Copy, progress: Progress, read: Mapping[Suffix, bytes] = MappingProxyType({})
) -> None:
    """Reads the copy in full, with those of its side files that are put back.

    Those that were `read` already are compared as they were. Raises `CopyError` if it is damaged:
    also for a side file alone, for nobody may get the settings or the keys of a TPM that are not
    those that were kept.
    """

    def report(done: int, total: int) -> None:
        progress("verify", 100 * done / total if total else 100)

    with told_as_damage(copy):
        verification.check(copy, report)
    _verify_side_files(copy, read)


def _verify_side_files(copy: Copy, read: Mapping[Suffix, bytes]) -> None:
    try:
        for suffix, data in read.items():
            verification.check_read_file(copy, suffix, data)
        verification.check_side_files(copy, [each for each in _PUT_BACK if each not in read])
    except CopyError as error:
        raise CopyError(
            f"the copy {copy.stamp} is damaged and was not restored: {error.message}",
            hint=(
                "restore an older one (--copy previous); the .ova itself is good, and can be "
                'imported by hand without that file: docs/restore.md, "Without this program"'
            ),
        ) from None


def restore(
    site: Site, stamp: str, what: ImportPlan, progress: Progress, kept: bytes | None
) -> Restored:
    """Makes the VM by VirtualBox's import, of a copy that was verified, with its kept settings.

    On any failure, and when it is interrupted, nothing of it is left.

    Raises what went wrong.
    """
    note = _new_note(site, what)
    with abandoned_imports.working(site.configuration.host.state_directory, note.file):
        note = import_note.set_up(note)
        with removed_if_it_fails(site, note):
            note, _ = make(site, what, note, progress)
            return _complete(site, stamp, what, note, kept)


def _complete(
    site: Site, stamp: str, what: ImportPlan, note: ImportNote, kept: bytes | None
) -> Restored:
    difference = complete(site, what, note, kept)
    machine = move_to_place(site, what, note)
    log.info("restored %s as %s {%s}", stamp, what.name, machine.uuid)
    return Restored(what.name, machine.uuid, machine.settings_file, stamp, difference)


def _new_note(site: Site, what: ImportPlan) -> ImportNote:
    token = scratch.new_token()
    name = f"vmbackup-restore-{token}"
    return ImportNote(
        import_note.restore_file(site.configuration.host.state_directory, token),
        what.base_folder / name,
        name,
        place=what.folder,
    )


def note(site: Site, key: str, done: Restored) -> None:
    """Writes to the database, and so to the log, what was restored.

    Raises what a commit raises: `NasError`, for one.
    """
    what = Restoration(done.stamp, site.node, done.name, done.uuid, timestamp(site.clock.now()))
    site.database.commit_once(
        lambda contents: copies.restored(contents, key, what),
        f"restore {key} {done.stamp} as {done.name}",
        "restore",
    )
