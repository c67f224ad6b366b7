"""Rehearsing a restore.

A copy becomes a VM under a scratch name, is started if wanted, watched, and removed again, whatever
happens. One that is started runs from its copy (`shared.tasks.served_machine`). Where that is not
possible, and before it is said that it does not come up, it is read in full and imported.

One rehearsal at a time on a host. What a killed one has left, its VM and its folder, is removed by
the next one of the same repository, by a local note that is made before them
(`shared.tasks.rehearsal_note`).
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from shared.copies.catalogue import Copy
from shared.copies.sidecar_fields import Rehearsed
from shared.host.errors import CopyError, LockedError
from shared.host.host_lock import host_lock
from shared.host.waits import pausing
from shared.site import Site
from shared.state.records import VmRecord
from shared.state.rules import readers
from shared.tasks import (
    finding_unlisted,
    rehearsal_note,
    rehearsal_result,
    served_machine,
    verification,
)
from shared.tasks.abandoned_imports import REHEARSAL_LOCK
from shared.tasks.direct_plan import DirectPlan
from shared.tasks.noted_import import Progress, require_room
from shared.tasks.rehearsal_trial import GOOD, TrialResult, Wishes, attempt, place, result_of
from shared.tasks.served_machine import NotServedError

log: Final = logging.getLogger(__name__)

#: How long to wait for somebody who works on the VM before the result stays unrecorded.
_NOTE_SECONDS: Final = 60.0
_NOTE_POLL_SECONDS: Final = 2.0
#: How much a guest that runs from its copy may write until it is removed: what a start takes.
_WRITES_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How it went; `recorded` is whether that could be written beside the copy."""

    stamp: str
    result: Rehearsed
    recorded: bool

    @property
    def good(self) -> bool:
        """Whether the copy became a VM, and the VM came up if that was wanted."""
        return self.result.result == GOOD


@dataclass(frozen=True, slots=True)
class RehearsalTurn:
    """That only this process rehearses on this host. Given by `alone`."""


@contextlib.contextmanager
def alone(site: Site) -> Iterator[RehearsalTurn]:
    """Takes the lock of this host's rehearsals, and removes what one has left that was killed.

    Raises `LockedError` if another process has it, `VBoxManageError` if that cannot be removed.
    """
    with host_lock(site.configuration.host.state_directory, REHEARSAL_LOCK) as mine:
        if not mine:
            raise LockedError(
                "another rehearsal runs on this host", hint="one at a time: wait until it has ended"
            )
        rehearsal_note.remove_noted(site)
        yield RehearsalTurn()


def rehearse(
    _turn: RehearsalTurn,
    site: Site,
    record: VmRecord,
    copy: Copy,
    wishes: Wishes,
    progress: Progress = lambda _what, _percent: None,
    *,
    noted: bool = True,
) -> Rehearsal:
    """Makes a VM of the copy, starts it if wanted, watches and removes it.

    It is verified before it is imported, and not where it runs from the copy. A failure of the copy
    is the result; raised is what has nothing to do with it, and then nothing is recorded.
    `progress` is first called when the copy is being read. Without `noted` nothing is written on
    the NAS: there is no database.

    Raises `LockedError` if somebody works on the VM, `CopyError` if the copy is gone, there is no
    room for it, or its import stands still, `UsageError`, `NasError`, `LockLostError`,
    `VBoxManageError` if VirtualBox cannot import or start anything on this host.
    """
    why, seen = "", None
    if wishes.boot and not wishes.full:
        why, seen = _run_from_copy(site, record, copy, wishes, progress, noted=noted)
    else:
        _require_room(site, copy, wishes, why)
    # That it is damaged is found also where there is no room to import it.
    seen = seen or _damaged(site, record, copy, progress, noted=noted)
    if seen is None:
        _require_room(site, copy, wishes, why)
        seen = attempt(site, copy, wishes, progress)
    seen = replace(seen, result=replace(seen.result, imported_because=why))
    recorded = noted and _record(site, record, copy.stamp, seen)
    return Rehearsal(copy.stamp, seen.result, recorded)


def needed_bytes(copy: Copy) -> int:
    """How much room the VM takes that is made of a copy, about; 0: it can run from that.

    Raises `NasError`.
    """
    return _imported_bytes(copy) if why_imported(copy) else 0


def why_imported(copy: Copy) -> str:
    """Why it is imported to be started; empty: it can run from the copy. Raises `NasError`."""
    try:
        _plan(copy)
    except NotServedError as error:
        return str(error)
    return ""


def _plan(copy: Copy) -> DirectPlan:
    """Like `served_machine.plan`, of a copy that VirtualBox did not refuse to import before.

    That it runs from the copy proves nothing of its import, and would hide that.
    """
    side = copy.sidecar
    if side is not None and side.refused:
        raise NotServedError(f"VirtualBox would not import it when it was made: {side.refused}")
    last = side.rehearsed if side is not None else None
    if last is not None and last.result != GOOD and not last.booted:
        raise NotServedError(f"it did not get to its start on {last.time[:10]}: {last.result}")
    return served_machine.plan(copy)


def _imported_bytes(copy: Copy) -> int:
    return max(copy.size, copy.sidecar.source_bytes if copy.sidecar else 0)


def _require_room(site: Site, copy: Copy, wishes: Wishes, why: str) -> None:
    """Raises `CopyError`, also with what made the import necessary."""
    try:
        require_room(place(site, wishes), _imported_bytes(copy))
    except CopyError as error:
        because = f"it has to be imported ({why}), but " if why else ""
        raise CopyError(f"{because}{error.message}", hint=error.hint) from None


def _run_from_copy(
    site: Site, record: VmRecord, copy: Copy, wishes: Wishes, progress: Progress, *, noted: bool
) -> tuple[str, TrialResult | None]:
    """Starts the VM from its copy, which stays meanwhile; or says why it has to be imported.

    Raises `CopyError` also if there is no room for what the guest writes, or for an import where
    nothing can be served.
    """
    try:
        how = _plan(copy)
        require_room(place(site, wishes), _WRITES_BYTES)
        with contextlib.ExitStack() as stack:
            if noted:
                session = stack.enter_context(site.database.session(readers.REHEARSER))
                session.read_copy(record.uuid, copy.stamp)
                session.doing.vm, session.doing.phase = record.key, readers.REHEARSER
            seen = attempt(site, copy, wishes, progress, how)
    except NotServedError as error:
        why = str(error)
        _require_room(site, copy, wishes, why)
    else:
        if seen.result.result == GOOD:
            return "", seen
        why = f"it did not come up from the copy: {seen.result.result}"
    log.info("VirtualBox imports the copy %s: %s", copy.stamp, why, extra={"vm": record.key})
    rehearsal_note.remove_noted(site)  # if it is still there: the note of the next replaces it
    return why, None


def _damaged(
    site: Site, record: VmRecord, copy: Copy, progress: Progress, *, noted: bool
) -> TrialResult | None:
    """Verifies the copy, which marks a damaged one if that can be noted.

    The result of the rehearsal if that is the end of it.
    """

    def report(done: int, total: int) -> None:
        progress("verify", 100 * done / total if total else 100)

    if not noted:
        problem = verification.examine(copy, report, site.pace())
        return result_of(site, f"damaged: {problem}", "", booted=False) if problem else None
    with site.database.session("rehearse") as session:
        finding_unlisted.take_in(session, record)
        examined = verification.verify_copy(site, session, record.key, copy.stamp, report)
    if examined is None:
        raise CopyError(f"the copy {copy.stamp} is gone")
    return (
        result_of(site, f"damaged: {examined.problem}", "", booted=False)
        if examined.problem
        else None
    )


def _record(site: Site, record: VmRecord, stamp: str, seen: TrialResult) -> bool:
    """Writes the result beside the copy.

    Somebody who works on the VM is waited for, for a bounded time.
    """
    clock = site.clock
    end = clock.monotonic() + _NOTE_SECONDS
    pause = pausing(clock.sleep, f"whoever works on {record.key}", _NOTE_SECONDS)
    with site.database.session("rehearse") as session:
        while True:
            try:
                finding_unlisted.take_in(session, record)
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
