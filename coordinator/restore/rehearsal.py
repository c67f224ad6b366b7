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
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator.restore import choice, restoring
from coordinator.restore.making import Progress, cut_off, make
from shared.copies.catalogue import Copy
from shared.copies.sidecar import Rehearsed
from shared.host.clock import timestamp
from shared.host.errors import CopyError, LockedError, UsageError, VmBackupError
from shared.host.host_lock import host_lock
from shared.site import Site
from shared.state.records import VmRecord
from shared.tasks import import_note, rehearsal_note, unlisted, verification
from shared.tasks.abandoned_imports import REHEARSAL_LOCK
from shared.tasks.import_note import Note
from shared.virtualbox.boot_check import BootCheck

log: Final = logging.getLogger(__name__)

_GOOD: Final = "good"
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
class Rehearsal:
    """How it went; `recorded` is whether that could be written beside the copy."""

    stamp: str
    result: Rehearsed
    recorded: bool

    @property
    def good(self) -> bool:
        """Whether the copy became a VM, and the VM came up if that was wanted."""
        return self.result.result == _GOOD


def rehearse(
    site: Site,
    record: VmRecord,
    which: str,
    wishes: Wishes,
    progress: Progress = lambda _what, _percent: None,
    *,
    noted: bool = True,
) -> Rehearsal:
    """Verifies, restores, starts, watches and removes.

    A failure of the copy is the result; raised is what has nothing to do with it. Without `noted`
    nothing is written on the NAS: there is no database.

    Raises `LockedError` if another rehearsal runs on this host or somebody works on the VM,
    `CopyError` if there is no such copy or no room for it, `UsageError`, `NasError`,
    `LockLostError`, `VBoxManageError` if VirtualBox cannot even be asked.
    """
    with _only_one(site.configuration.host.state_directory):
        rehearsal_note.remove_noted(site)
        copy = choice.choose(site, record, which)
        result = _damaged(site, record, copy, progress, noted=noted) or _try(
            site, copy, wishes, progress
        )
    return Rehearsal(copy.stamp, result, noted and _record(site, record, copy.stamp, result))


def _damaged(
    site: Site, record: VmRecord, copy: Copy, progress: Progress, *, noted: bool
) -> Rehearsed | None:
    """Verifies the copy, which marks a damaged one if that can be noted.

    The result of the rehearsal if that is the end of it.
    """

    def report(done: int, total: int) -> None:
        progress("verify", 100 * done / total if total else 100)

    if not noted:
        problem = verification.examine(copy, report)
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


def _try(site: Site, copy: Copy, wishes: Wishes, progress: Progress) -> Rehearsed:
    """Makes a VM of the copy, starts it if wanted, and removes it."""
    note = rehearsal_note.new_note(
        site, wishes.folder or site.configuration.host.state_directory / "rehearsals"
    )
    what = restoring.plan(site, copy, name=note.name, folder=note.folder.parent)
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
        return _result(site, seen.problem or _GOOD, seen.text, booted=True)
    except UsageError:
        raise
    except VmBackupError as error:
        return _result(site, error.message, "", booted=booted)
    finally:
        progress("remove", 0)
        _remove(site, note)


def _remove(site: Site, note: Note) -> None:
    """What cannot be removed is reported, and removed by the next `database` worker."""
    try:
        import_note.remove(site, note)
    except VmBackupError as error:
        log.error(("what was rehearsed could not be removed: %s"), error.message)  # noqa: TRY400 - an operator's message


def _result(site: Site, result: str, observed: str, *, booted: bool) -> Rehearsed:
    return Rehearsed(timestamp(site.clock.now()), site.node, result, observed, booted)


def _record(site: Site, record: VmRecord, stamp: str, result: Rehearsed) -> bool:
    """Writes the result beside the copy.

    Somebody who works on the VM is waited for, for a bounded time.
    """
    clock = site.clock
    end = clock.monotonic() + _NOTE_SECONDS
    with site.database.session("rehearse") as session:
        while True:
            try:
                unlisted.take_in(session, record)
                return verification.note_rehearsal(site, session, record.key, stamp, result)
            except LockedError as error:
                if clock.monotonic() >= end:
                    log.warning(
                        "the result of the rehearsal was not recorded: %s",
                        error.message,
                        extra={"vm": record.key},
                    )
                    return False
                clock.sleep(_NOTE_POLL_SECONDS)


@contextlib.contextmanager
def _only_one(state_directory: Path) -> Iterator[None]:
    with host_lock(state_directory, REHEARSAL_LOCK) as mine:
        if not mine:
            raise LockedError(
                "another rehearsal runs on this host", hint="one at a time: wait until it has ended"
            )
        yield
