"""Archiving a VM and activating it: its state in the database and its copies, moved together.

The state is committed first, with a note that copies have to be moved, then they are moved, then
the note is taken back. Killed at any point, the same call again, or the next database worker
through `resume`, goes on from there.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

from shared.copies import catalogue
from shared.copies.archive_location import prove_apart, require_apart
from shared.copies.copying import Route
from shared.copies.moving import Moved, move_copies
from shared.host.errors import NasError, VBoxManageError
from shared.host.printable import quoted
from shared.site import Site
from shared.state.contents import Contents
from shared.state.hold import require_unheld
from shared.state.records import Claim, VmRecord
from shared.state.rules import archive as archive_rules
from shared.state.rules import claims, copies, vm_records
from shared.state.rules.copies import FoundCopies
from shared.state.sessions import deaths, recovery
from shared.state.sessions.holding import Holding, holding
from shared.state.states import Event, State
from shared.state.store.protocol import Change
from shared.tasks.vm_copies import forget_command, look_up_copies
from shared.virtualbox.fingerprint import Fingerprint, differences, fingerprint_of

log: Final = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


class _Start(Protocol):
    """A change that claims the VM for a move, with a number above `floor`."""

    def __call__(
        self, contents: Contents, *, key: str, session: str, when: str, floor: int
    ) -> Contents: ...


@dataclass(frozen=True, slots=True)
class MoveResult:
    """What the VM is now, which of its copies arrived, and which had to stay."""

    key: str
    status: State
    moved: Moved


def archive(site: Site, key: str, progress: Progress = lambda _done, _total: None) -> MoveResult:
    """Makes the VM ARCHIVED and moves its copies to the archive. Starts no backup.

    Repeated, it finishes what was interrupted.

    Raises `UnknownVmError`, `LockedError` while somebody works on the VM, `IllegalMoveError`,
    `NasError`, `LockLostError`.
    """

    def start(contents: Contents, *, key: str, session: str, when: str, floor: int) -> Contents:
        interrupted = vm_records.find(contents, key).moving is not None
        begin = archive_rules.resume_archive if interrupted else archive_rules.start_archive
        return begin(contents, key, session, when, floor)

    return _move(site, key, "archive", start, progress)


def activate(site: Site, key: str, progress: Progress = lambda _done, _total: None) -> MoveResult:
    """Moves the copies of an archived VM back: it becomes CLEAN, BACKUP_NECESSARY, or NEW.

    NEW if it has no copies. Starts no backup. Raises like `archive`.
    """
    return _move(site, key, "activate", archive_rules.start_activation, progress)


def resume(site: Site, key: str, progress: Progress = lambda _done, _total: None) -> MoveResult:
    """Finishes an archive or activate whose process died.

    Raises like `archive`; `IllegalMoveError` if there is nothing to finish.
    """
    return _move(site, key, "database", archive_rules.resume_move, progress)


def _move(site: Site, key: str, worker: str, start: _Start, progress: Progress) -> MoveResult:
    """Claims the VM by `start`, moves its copies, commits what it is then."""
    site.prepare_archive()
    _free_from_dead(site, key)
    record = vm_records.find(site.database.head().contents, key)
    site.database.with_room(lambda: require_movable(site, record))
    with (
        site.database.session(worker) as session,
        holding(session, partial(start, key=key, floor=site.floor(key)), f"{worker} {key}") as held,
    ):
        moved = _move_files(site, held, progress)
        for problem in moved.problems:
            log.warning(
                "the copy %s stays where it is: %s",
                problem.stamp,
                problem.reason,
                extra={"vm": key},
            )
        own = held.claim
        change = (
            _activated(site, held.record, own)
            if own.purpose == "activate"
            else partial(archive_rules.moved, key=key, own=own)
        )
        head = held.commit(change, f"{own.purpose} {key}: copies in place")
        return MoveResult(key, _status_after(head.contents, held.record), moved)


def require_movable(site: Site, record: VmRecord, *, experiment: bool = True) -> None:
    """Makes sure that the VM's two directories are two, and that its copies are in one of them.

    Also that no VM runs from one of them, as record and sidecars tell, unless the move was begun.
    Asked before anything is committed. Without `experiment` nothing is written. Raises
    `ConfigurationError`, `NasError`, `UnusableRecordError`, `LockedError`.
    """
    if not record.directory:
        return
    site.require_archive_no_vm()
    places = [site.directory(record), site.archive_directory(record)]
    (prove_apart if experiment else require_apart)(site.configuration.nas, record.directory)
    found = [copy for place in places for copy in catalogue.read(place, record.uuid).copies]
    if record.moving is None:
        told = (hold for copy in found for hold in copy.holds)
        require_unheld(record.key, (*record.holds, *told), "its copies cannot be moved")
    if record.last_copy is not None and not any(copy.present and copy.ours for copy in found):
        verify = f"`vmbackup-admin verify {quoted(record.key)}` makes the database say so"
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
    """Frees the VM if a process of this machine that is gone holds it.

    So a command that was killed can be repeated: at once, or after three heartbeats if the machine
    was restarted since.
    """
    contents = site.database.head().contents
    claim = vm_records.find(contents, key).claim
    if claim is not None:
        found = [row for row in deaths.live_sessions(contents) if row.id == claim.session]
        recovery.expire(site.database, deaths.find_here(site.database, found), "recover")


def _move_files(site: Site, held: Holding, progress: Progress) -> Moved:
    record, own = held.record, held.claim
    if (
        not record.directory
    ):  # taken over from an old database, and no host has listed it since: it has no copies
        return Moved((), ())
    here, there = site.directory(record), site.archive_directory(record)
    source, target = (there, here) if own.purpose == "activate" else (here, there)

    def report(done: int, total: int) -> None:
        held.session.doing.at(done, total)
        progress(done, total)

    vms = site.database.head().contents.vms.values()
    live = {vm.claim.number for vm in vms if vm.claim} | {
        vm.publishing.claim for vm in vms if vm.publishing
    }
    route = Route(
        source,
        target,
        record.uuid,
        own.number,
        reserve=site.configuration.nas.reserve,
        live=frozenset(live - {own.number}),
        check=held.check_often,
        progress=report,
    )
    return move_copies(site.files, route)


def _activated(site: Site, record: VmRecord, own: Claim) -> Change:
    found = look_up_copies(
        site, replace(record, status=State.CLEAN)
    )  # where they are now, whatever the record says yet
    return partial(_arrived, own=own, event=_event(site, record), found=found)


def _arrived(contents: Contents, *, own: Claim, event: Event, found: FoundCopies) -> Contents:
    """The contents with the activated VM: what it becomes, and the copies that it has."""
    record = claims.held(contents, "", own)
    contents = contents.with_vm(copies.with_copies(record, found))
    return archive_rules.moved(contents, record.key, own, event)


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
    """What an activated VM becomes, by whether it was used since its last copy.

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
