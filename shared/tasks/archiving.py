"""Setting a VM aside and taking it back.

Its state in the database and the place of its copies, together.

The state is committed first, with a note that copies have to be moved, then they are moved, then
the note is taken back. Killed at any point, the same call again, or the next database worker
through `resume`, goes on from there.
"""

import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from shared.copies import catalogue
from shared.copies.archive_location import prove_apart, require_apart
from shared.copies.copying import Route
from shared.copies.moving import Moved, move_copies
from shared.host.clock import timestamp
from shared.host.errors import NasError, VBoxManageError
from shared.site import Site
from shared.state.records import Claim, Contents, VmRecord
from shared.state.rules import changes, interventions, upkeep
from shared.state.rules.upkeep import FoundCopies
from shared.state.sessions import recovery
from shared.state.sessions.session import Session
from shared.state.states import Event, State
from shared.state.store.protocol import Change
from shared.tasks.vm_copies import forget_command, look_up_copies
from shared.virtualbox.fingerprint import Fingerprint, differences, fingerprint_of

log: Final = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
#: Claims the VM for a move: contents, session, time, and the number that the claim's must be above.
_Start = Callable[[Contents, str, str, int], Contents]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the VM. `moved` says which copies arrived and which had to stay."""

    key: str
    status: State
    moved: Moved


def archive(site: Site, key: str, progress: Progress = lambda _done, _total: None) -> Outcome:
    """Makes the VM ARCHIVED and moves its copies to the archive. Starts no backup.

    Repeated, it finishes what was interrupted.

    Raises `UnknownVmError`, `LockedError` while somebody works on the VM, `IllegalMoveError`,
    `NasError`, `LockLostError`.
    """
    site.prepare_archive()

    def start(contents: Contents, session: str, when: str, floor: int) -> Contents:
        interrupted = changes.find(contents, key).moving is not None
        return (interventions.archive_again if interrupted else upkeep.archive)(
            contents, key, session, when, floor
        )

    return _move(site, key, "archive", start, progress)


def activate(site: Site, key: str, progress: Progress = lambda _done, _total: None) -> Outcome:
    """Moves the copies of an archived VM back and makes it CLEAN, BACKUP_NECESSARY, or NEW if there are none. Starts no backup.

    Raises like `archive`.
    """
    site.prepare_archive()

    def start(contents: Contents, session: str, when: str, floor: int) -> Contents:
        return upkeep.start_activation(contents, key, session, when, floor)

    return _move(site, key, "activate", start, progress)


def resume(site: Site, key: str, progress: Progress = lambda _done, _total: None) -> Outcome:
    """Finishes an archive or activate whose process died.

    Raises like `archive`; `IllegalMoveError` if there is nothing to finish.
    """
    site.prepare_archive()

    def start(contents: Contents, session: str, when: str, floor: int) -> Contents:
        return upkeep.resume_move(contents, key, session, when, floor)

    return _move(site, key, "database", start, progress)


def _move(site: Site, key: str, worker: str, start: _Start, progress: Progress) -> Outcome:
    _free_from_dead(site, key)
    require_movable(site, changes.find(site.database.head().contents, key))
    with site.database.session(worker) as session:
        when, floor = timestamp(site.clock.now()), site.floor(key)
        record, own = session.claim(
            lambda contents: start(contents, session.id, when, floor), f"{worker} {key}"
        )
        moved = _move_files(site, session, record, own, progress)
        for problem in moved.problems:
            log.warning(
                "the copy %s stays where it is: %s",
                problem.stamp,
                problem.reason,
                extra={"vm": key},
            )
        change = (
            _activated(site, record, own)
            if own.purpose == "activate"
            else partial(upkeep.moved, key=key, own=own)
        )
        head = session.commit(change, f"{own.purpose} {key}: copies in place")
        return Outcome(key, _status_after(head.contents, record), moved)


def require_movable(site: Site, record: VmRecord, *, experiment: bool = True) -> None:
    """Before anything is committed.

    The VM's two directories are two places, and a VM with copies has some in one of them.

    Without `experiment` nothing is written. Raises `ConfigurationError`, `NasError`,
    `UnusableRecordError`.
    """
    if not record.directory:
        return
    site.require_archive_no_vm()
    places = [site.directory(record), site.archive_directory(record)]
    (prove_apart if experiment else require_apart)(site.configuration.nas, record.directory)
    found = (copy for place in places for copy in catalogue.read(place, record.uuid).copies)
    if record.last_copy is not None and not any(copy.present and copy.ours for copy in found):
        verify = f"`vmbackup-admin verify {shlex.quote(record.key)}` makes the database say so"
        say = forget_command(record.key) if record.status == State.ARCHIVED else verify
        raise NasError(
            (
                f"the last copy of {record.key} is {record.last_copy.stamp}, and there is no copy "
                f"in {places[0]} or {places[1]}"
            ),
            hint=(
                f"is everything mounted, is nas.archive_directory right? If the copies were "
                f"deleted on purpose: {say}"
            ),
        )


def _free_from_dead(site: Site, key: str) -> None:
    """If a process of this machine that is gone holds the VM, it is freed at once, so that a command that was killed can be repeated."""
    contents = site.database.head().contents
    claim = changes.find(contents, key).claim
    if claim is not None:
        dead = [
            grave
            for grave in recovery.find_proven(site.database, contents)
            if grave.session.id == claim.session
        ]
        recovery.expire(site.database, dead, "recover")


def _move_files(
    site: Site, session: Session, record: VmRecord, own: Claim, progress: Progress
) -> Moved:
    if (
        not record.directory
    ):  # taken over from an old database, and no host has listed it since: it has no copies
        return Moved((), ())
    here, there = site.directory(record), site.archive_directory(record)
    source, target = (there, here) if own.purpose == "activate" else (here, there)

    def report(done: int, total: int) -> None:
        session.doing.bytes_done, session.doing.percent = (
            done,
            round(100 * done / total, 1) if total else None,
        )
        progress(done, total)

    check = _Check(site, session, record.key, own)
    vms = site.database.head().contents.vms.values()
    live = {vm.claim.number for vm in vms if vm.claim} | {
        vm.publishing.claim for vm in vms if vm.publishing
    }
    reserve = site.configuration.nas.reserve
    return move_copies(
        site.files,
        Route(
            source,
            target,
            record.uuid,
            own.number,
            reserve,
            frozenset(live - {own.number}),
            check,
            report,
        ),
    )


class _Check:
    """Asks before each step whether the claim stands.

    The heartbeat always, the database as often as the heart beats.
    """

    def __init__(self, site: Site, session: Session, key: str, own: Claim) -> None:
        self._site, self._session, self._key, self._own = site, session, key, own
        self._asked = site.clock.boottime()

    def __call__(self) -> None:
        self._session.check()
        now = self._site.clock.boottime()
        if now - self._asked > self._site.database.version.lease_seconds / 10:
            changes.held(self._site.database.head().contents, self._key, self._own)
            self._asked = now


def _activated(site: Site, record: VmRecord, own: Claim) -> Change:
    found = look_up_copies(
        site, replace(record, status=State.CLEAN)
    )  # where they are now, whatever the record says yet
    return partial(_arrived, own=own, event=_event(site, record), found=found)


def _arrived(contents: Contents, *, own: Claim, event: Event, found: FoundCopies) -> Contents:
    """An activated VM: what it becomes, and what there is of its copies."""
    record = changes.held(contents, "", own)
    contents = contents.with_vm(upkeep.with_copies(record, found))
    return upkeep.moved(contents, record.key, own, event)


def _status_after(contents: Contents, record: VmRecord) -> State:
    found = next(
        (
            vm
            for vm in contents.vms.values()
            if vm.uuid == record.uuid and vm.directory == record.directory
        ),
        record,
    )
    return found.status


def _event(site: Site, record: VmRecord) -> Event:
    """What an activated VM becomes.

    Where it cannot be told whether it was used since, it was: that costs one needless backup.
    """
    latest = (
        catalogue.read(site.directory(record), record.uuid).latest_good
        if record.directory
        else None
    )
    if latest is None:
        return Event.ACTIVATE_EMPTY
    if (
        record.last_copy is None
        or record.last_copy.stamp != latest.stamp
        or record.node != site.node
    ):
        return Event.ACTIVATE_CHANGED
    try:
        machine = site.inventory().get(record.uuid)
        if machine is None or machine.running or not machine.accessible:
            return Event.ACTIVATE_CHANGED
        changed = differences(
            Fingerprint.from_json(record.last_copy.fingerprint), fingerprint_of(machine)
        )
    except VBoxManageError as error:
        log.warning(
            "it cannot be told whether the VM was used since its copy: %s",
            error.message,
            extra={"vm": record.key},
        )
        return Event.ACTIVATE_CHANGED
    return Event.ACTIVATE_CHANGED if changed else Event.ACTIVATE_UNCHANGED
