"""One try of a copy: it becomes a VM, which is started if wanted, watched, and removed again."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from shared.copies import screenshots
from shared.copies.catalogue import Copy
from shared.copies.names import final_name
from shared.copies.side_files import member_names
from shared.copies.sidecar_fields import Rehearsed
from shared.host.clock import timestamp
from shared.host.errors import (
    ConfigurationError,
    CopyError,
    LockedError,
    LockLostError,
    NasError,
    UsageError,
    VBoxManageError,
    VmBackupError,
)
from shared.nas.reading import open_file
from shared.site import Site
from shared.tasks import import_leftovers, import_note, rehearsal_note, served_machine
from shared.tasks.direct_plan import DirectPlan
from shared.tasks.import_note import ImportNote
from shared.tasks.noted_import import ImportStalledError, Progress, cut_off, make
from shared.virtualbox import host_faults
from shared.virtualbox.boot_check import BootCheck
from shared.virtualbox.importing import ImportPlan, refuse_unsafe
from shared.virtualbox.inventory import Machine

log: Final = logging.getLogger(__name__)

#: What is said of one that came up, or was not to be started.
GOOD: Final = "good"
#: What says nothing of a copy, whenever it is raised.
_NOT_OF_THE_COPY: Final = (
    *(NasError, ImportStalledError, ConfigurationError, LockedError, LockLostError, UsageError),
)


@dataclass(frozen=True, slots=True)
class Wishes:
    """How to rehearse.

    `settings` are names and values of `VBoxManage modifyvm`, for instance less memory. `full`: it
    is imported also if it is started.
    """

    boot: bool = False
    full: bool = False
    wait_seconds: float = 120.0
    folder: Path | None = None
    settings: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The result of a rehearsal, and the screenshot of its guest; empty: there is none."""

    result: Rehearsed
    image: bytes = b""


def place(site: Site, wishes: Wishes) -> Path:
    """The directory in which the VM is made."""
    return (wishes.folder or site.configuration.host.state_directory / "rehearsals").absolute()


def attempt(
    site: Site, copy: Copy, wishes: Wishes, progress: Progress, how: DirectPlan | None = None
) -> TrialResult:
    """Makes a VM of the copy, starts it if wanted, and removes it.

    With `how` its disks are served from the copy, else it is imported. A failure of the copy is the
    result, and whatever VirtualBox says while they are served.
    """
    note = rehearsal_note.new_note(site, place(site, wishes))
    what = _plan(copy, note)
    note = import_note.set_up(note)
    booted = False
    try:
        note, machine = _make(site, copy, what, note, progress, how)
        if not wishes.boot:
            return result_of(site, GOOD, "it was imported, and not started", booted=False)
        BootCheck(site.vboxmanage, site.clock, machine).change(wishes.settings)
        machine = cut_off(site, note)
        if how is not None:
            machine = served_machine.keep_writes_apart(site, note)
        on_trial = BootCheck(site.vboxmanage, site.clock, machine)
        progress("boot", 0)
        booted = True
        seen = on_trial.start_and_watch(wishes.wait_seconds)
        image = _screenshot(on_trial, note)
        unread = how is not None and not served_machine.is_served(note)
        problem = "its disks cannot be read" if unread else seen.problem
        return replace(result_of(site, problem or GOOD, seen.text, booted=True), image=image)
    except _NOT_OF_THE_COPY:
        raise
    except VmBackupError as error:
        # One that does not see what is served says that files are missing: the import decides.
        of_host = host_faults.is_of_host if how is None else host_faults.is_of_machine
        if isinstance(error, VBoxManageError) and of_host(error):
            raise
        return result_of(site, error.message, "", booted=booted)
    finally:
        progress("remove", 0)
        _remove(site, note)


def _plan(copy: Copy, note: ImportNote) -> ImportPlan:
    """What is imported: nothing of what the VM had on its host comes back (`cut_off`)."""
    if copy.sidecar is None:
        raise CopyError(
            f"the copy {copy.stamp} cannot be used: {copy.problem}",
            hint="another one: `vmbackup-admin copies` shows what there is",
        )
    source = copy.directory / final_name(copy.stamp, "ova")
    refuse_unsafe(member_names(copy.directory, source.name))
    return ImportPlan(source, note.name, note.folder.parent)


def _make(
    site: Site,
    copy: Copy,
    what: ImportPlan,
    note: ImportNote,
    progress: Progress,
    how: DirectPlan | None,
) -> tuple[ImportNote, Machine]:
    if how is None:
        return make(site, what, note, progress)
    progress("mount", 0)
    return served_machine.make(site, copy, how, note)


def _screenshot(on_trial: BootCheck, note: ImportNote) -> bytes:
    """What the guest shows now; empty if it shows nothing that could be kept."""
    file = note.folder / "screenshot.png"
    try:
        on_trial.take_screenshot(file)
        with open_file(file, follow=False) as image:
            found = image.read(screenshots.LIMIT_BYTES + 1)
    except VmBackupError as error:
        log.info("there is no screenshot of it: %s", error.message)
        return b""
    except OSError as error:
        log.info("there is no screenshot of it: %s", error.strerror)
        return b""
    if problem := screenshots.unusable(found):
        log.info("its screenshot is not kept: %s", problem)
        return b""
    return found


def _remove(site: Site, note: ImportNote) -> None:
    """What cannot be removed is reported, and removed by the next `database` worker."""
    try:
        import_leftovers.remove(site, import_note.read(note.file) or note)  # with all disks
    except VmBackupError as error:
        log.error(("what was rehearsed could not be removed: %s"), error.message)  # noqa: TRY400 - an operator's message


def result_of(site: Site, result: str, observed: str, *, booted: bool) -> TrialResult:
    """A result of now, on this host."""
    return TrialResult(Rehearsed(timestamp(site.clock.now()), site.node, result, observed, booted))
