"""Rehearsing a restore.

A copy becomes a VM under a scratch name, is started if wanted, watched, and removed again, whatever
happens.

One rehearsal at a time on a host. What a killed one has left, its VM and its folder, is removed by
the next one of the same repository, by a local note that is made before them
(`shared.tasks.rehearsal_note`).
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
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
from shared.host.host_lock import host_lock
from shared.host.waits import pausing
from shared.nas.reading import open_file
from shared.site import Site
from shared.state.records import VmRecord
from shared.tasks import (
    import_leftovers,
    import_note,
    rehearsal_note,
    rehearsal_result,
    unlisted,
    verification,
)
from shared.tasks.abandoned_imports import REHEARSAL_LOCK
from shared.tasks.import_note import Note
from shared.tasks.importing import ImportStalledError, Progress, cut_off, make, require_room
from shared.virtualbox import host_faults
from shared.virtualbox.boot_check import BootCheck
from shared.virtualbox.importing import ImportPlan, refuse_unsafe

log: Final = logging.getLogger(__name__)

_GOOD: Final = "good"
#: What says nothing of a copy, whenever it is raised.
_NOT_OF_THE_COPY: Final = (
    *(NasError, ImportStalledError, ConfigurationError, LockedError, LockLostError, UsageError),
)
#: How long to wait for somebody who works on the VM before the result stays unrecorded.
_NOTE_SECONDS: Final = 60.0
_NOTE_POLL_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """How to rehearse.

    `settings` are names and values of `VBoxManage modifyvm`, for instance less memory.
    """

    boot: bool = False
    wait_seconds: float = 120.0
    folder: Path | None = None
    settings: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """The result, and the screenshot of the guest; empty: there is none."""

    result: Rehearsed
    image: bytes = b""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How it went; `recorded` is whether that could be written beside the copy."""

    stamp: str
    result: Rehearsed
    recorded: bool

    @property
    def good(self) -> bool:
        """Whether the copy became a VM, and the VM came up if that was wanted."""
        return self.result.result == _GOOD


@dataclass(frozen=True, slots=True)
class Turn:
    """That only this process rehearses on this host. Given by `alone`."""


@contextlib.contextmanager
def alone(site: Site) -> Iterator[Turn]:
    """Takes the lock of this host's rehearsals, and removes what one has left that was killed.

    Raises `LockedError` if another process has it, `VBoxManageError` if that cannot be removed.
    """
    with host_lock(site.configuration.host.state_directory, REHEARSAL_LOCK) as mine:
        if not mine:
            raise LockedError(
                "another rehearsal runs on this host", hint="one at a time: wait until it has ended"
            )
        rehearsal_note.remove_noted(site)
        yield Turn()


def rehearse(
    _turn: Turn,
    site: Site,
    record: VmRecord,
    copy: Copy,
    wishes: Wishes,
    progress: Progress = lambda _what, _percent: None,
    *,
    noted: bool = True,
) -> Rehearsal:
    """Verifies the copy, makes a VM of it, starts it if wanted, watches and removes it.

    A failure of the copy is the result; raised is what has nothing to do with it, and then nothing
    is recorded. `progress` is first called when the copy is being read. Without `noted` nothing is
    written on the NAS: there is no database.

    Raises `LockedError` if somebody works on the VM, `CopyError` if the copy is gone, there is no
    room for it, or its import stands still, `UsageError`, `NasError`, `LockLostError`,
    `VBoxManageError` if VirtualBox cannot import or start anything on this host.
    """
    require_room(place(site, wishes), needed_bytes(copy))
    seen = _damaged(site, record, copy, progress, noted=noted) or _try(site, copy, wishes, progress)
    recorded = noted and _record(site, record, copy.stamp, seen)
    return Rehearsal(copy.stamp, seen.result, recorded)


def needed_bytes(copy: Copy) -> int:
    """How much room the VM takes that is made of a copy, about."""
    return max(copy.size, copy.sidecar.source_bytes if copy.sidecar else 0)


def place(site: Site, wishes: Wishes) -> Path:
    """The directory in which the VM is made."""
    return (wishes.folder or site.configuration.host.state_directory / "rehearsals").absolute()


def _plan(copy: Copy, note: Note) -> ImportPlan:
    """What is imported: nothing of what the VM had on its host comes back (`cut_off`)."""
    if copy.sidecar is None:
        raise CopyError(
            f"the copy {copy.stamp} cannot be used: {copy.problem}",
            hint="another one: `vmbackup-admin copies` shows what there is",
        )
    source = copy.directory / final_name(copy.stamp, "ova")
    refuse_unsafe(member_names(copy.directory, source.name))
    return ImportPlan(source, note.name, note.folder.parent)


def _damaged(
    site: Site, record: VmRecord, copy: Copy, progress: Progress, *, noted: bool
) -> _Seen | None:
    """Verifies the copy, which marks a damaged one if that can be noted.

    The result of the rehearsal if that is the end of it.
    """

    def report(done: int, total: int) -> None:
        progress("verify", 100 * done / total if total else 100)

    if not noted:
        problem = verification.examine(copy, report, site.pace())
        return _result(site, f"damaged: {problem}", "", booted=False) if problem else None
    with site.database.session("rehearse") as session:
        unlisted.take_in(session, record)
        examined = verification.verify_copy(site, session, record.key, copy.stamp, report)
    if examined is None:
        raise CopyError(f"the copy {copy.stamp} is gone")
    return (
        _result(site, f"damaged: {examined.problem}", "", booted=False)
        if examined.problem
        else None
    )


def _try(site: Site, copy: Copy, wishes: Wishes, progress: Progress) -> _Seen:
    """Makes a VM of the copy, starts it if wanted, and removes it."""
    note = rehearsal_note.new_note(site, place(site, wishes))
    what = _plan(copy, note)
    note = import_note.set_up(note)
    booted = False
    try:
        note, machine = make(site, what, note, progress)
        if not wishes.boot:
            return _result(site, _GOOD, "it was imported, and not started", booted=False)
        BootCheck(site.vboxmanage, site.clock, machine).change(wishes.settings)
        on_trial = BootCheck(site.vboxmanage, site.clock, cut_off(site, note))
        progress("boot", 0)
        booted = True
        seen = on_trial.start_and_watch(wishes.wait_seconds)
        result = _result(site, seen.problem or _GOOD, seen.text, booted=True)
        return replace(result, image=_screenshot(on_trial, note))
    except _NOT_OF_THE_COPY:
        raise
    except VmBackupError as error:
        if isinstance(error, VBoxManageError) and host_faults.is_of_host(error):
            raise
        return _result(site, error.message, "", booted=booted)
    finally:
        progress("remove", 0)
        _remove(site, note)


def _screenshot(on_trial: BootCheck, note: Note) -> bytes:
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


def _remove(site: Site, note: Note) -> None:
    """What cannot be removed is reported, and removed by the next `database` worker."""
    try:
        import_leftovers.remove(site, note)
    except VmBackupError as error:
        log.error(("what was rehearsed could not be removed: %s"), error.message)  # noqa: TRY400 - an operator's message


def _result(site: Site, result: str, observed: str, *, booted: bool) -> _Seen:
    return _Seen(Rehearsed(timestamp(site.clock.now()), site.node, result, observed, booted))


def _record(site: Site, record: VmRecord, stamp: str, seen: _Seen) -> bool:
    """Writes the result beside the copy.

    Somebody who works on the VM is waited for, for a bounded time.
    """
    clock = site.clock
    end = clock.monotonic() + _NOTE_SECONDS
    pause = pausing(clock.sleep, f"whoever works on {record.key}", _NOTE_SECONDS)
    with site.database.session("rehearse") as session:
        while True:
            try:
                unlisted.take_in(session, record)
                return rehearsal_result.note(
                    site, session, record.key, stamp, seen.result, seen.image
                )
            except LockedError as error:
                if clock.monotonic() >= end:
                    log.warning(
                        "the result of the rehearsal was not recorded: %s",
                        error.message,
                        extra={"vm": record.key},
                    )
                    return False
                pause(_NOTE_POLL_SECONDS)
