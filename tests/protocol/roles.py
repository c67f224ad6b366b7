"""The workers of long schedules.

Sessions of production that take notice of VMs, archive them, and recover what others left.
"""

import contextlib
import errno
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest.mock import patch

from shared.host.errors import NasError, VmBackupError
from shared.state.contents import Contents
from shared.state.rules import archive, claims, sightings
from shared.state.sessions import deaths, recovery
from shared.state.states import Event
from shared.state.store.state_files import StateFiles
from tests.protocol.claims import (
    LEASE_SECONDS,
    VM,
    StillClock,
    Worker,
    backs_up,
    finishes,
    publishes,
)
from tests.protocol.process import Program
from tests.protocol.programs import WHEN, append, editor, pruner

#: Generations that are not moved to the history.
KEPT: Final = 4


@dataclass(frozen=True, slots=True)
class AskTime:
    """What the process's own clock says, in seconds."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """The process goes on so many seconds later, at the earliest."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ReadBeat:
    """Answers the bytes of a session's heartbeat, None if there is none.

    The answer may be one beat old.
    """

    session: str


class SteppedClock(StillClock):
    """The clock of a process whose time the schedule owns."""

    def __init__(self, files: StateFiles) -> None:
        self._files = files

    def monotonic(self) -> float:
        return float(self._files.perform(AskTime()))

    def sleep(self, seconds: float) -> None:
        self._files.perform(Sleep(seconds))


def _works(name: str, work: Callable[[Worker], None]) -> Program:
    """A worker that does this within a session, and ends it."""

    def program(files: StateFiles) -> Hashable:
        worker = Worker(files, name, SteppedClock(files), view=True)
        with contextlib.suppress(VmBackupError), worker.session:
            work(worker)
        return tuple(worker.told)

    return program


def notifier(name: str) -> Program:
    """Notices that the VM was used, and finds others: what it commits shows whether it was lost."""

    def change(contents: Contents) -> Contents:
        uuid = contents.vms[VM].uuid
        return sightings.apply_events(
            append(f"<{name}1>")(contents), {uuid: (Event.CHANGED, Event.SEEN_STOPPED)}
        )

    def work(worker: Worker) -> None:
        worker.commit(change)
        worker.commit(append(f"<{name}2>"))

    return _works(name, work)


def backup(name: str) -> Program:
    """Backs the VM up."""
    return _works(name, backs_up)


def suspicious(name: str, victim: str) -> Program:
    """Declares another session dead, rightly or wrongly, and goes on with what it had."""

    def work(worker: Worker) -> None:
        worker.expire(victim)
        finishes(worker)

    return _works(name, work)


def operator(name: str, victim: str) -> Program:
    """Breaks another session's claim by hand, and goes on with what it had."""

    def work(worker: Worker) -> None:
        worker.break_claim(victim)
        finishes(worker)

    return _works(name, work)


def archiver(name: str) -> Program:
    """Archives the VM."""

    def work(worker: Worker) -> None:
        if worker.commit(
            lambda contents: archive.start_archive(contents, VM, worker.session.id, WHEN)
        ):
            _moves(worker)

    return _works(name, work)


def activator(name: str) -> Program:
    """Activates the VM."""

    def work(worker: Worker) -> None:
        if worker.commit(
            lambda contents: archive.start_activation(contents, VM, worker.session.id, WHEN)
        ):
            _moves(worker)

    return _works(name, work)


def _moves(worker: Worker) -> None:
    """The copies are moved, which is not seen here; then that is committed."""
    with contextlib.suppress(NasError):
        record, own = claims.claimed_by(worker.database.head().contents, worker.session.id)
        event = None
        if own.purpose == "activate":
            event = Event.ACTIVATE_CHANGED if record.last_copy else Event.ACTIVATE_EMPTY
        worker.commit(lambda contents: archive.moved(contents, VM, own, event))


def recoverer(name: str) -> Program:
    """A `database` worker on another machine.

    Watches all sessions, expires the silent ones, finishes what they began.
    """

    def work(worker: Worker) -> None:
        database = worker.database
        with patch.object(deaths, "read_beat", _reader(database.files)):
            silent = deaths.watch_silent(
                database, deaths.live_sessions(database.head().contents), LEASE_SECONDS
            )
            recovery.expire(database, silent, "database")
        record = database.head().contents.vms[VM]
        if record.claim is not None:
            return
        if record.publishing is not None:
            publishes(worker)
        elif record.moving is not None and worker.commit(
            lambda contents: archive.resume_move(contents, VM, worker.session.id, WHEN)
        ):
            _moves(worker)
        database.publish_view(name)

    return _works(name, work)


def _reader(files: StateFiles) -> Callable[[Path, str], bytes | None]:
    def read_beat(_: Path, session: str) -> bytes | None:
        try:
            return files.perform(ReadBeat(session))
        except NasError as error:
            raise OSError(errno.EIO, "Input/output error") from error

    return read_beat


ROLES: Final = {
    "notifier": notifier,
    "backup": backup,
    "archive": archiver,
    "activate": activator,
    "recovery": recoverer,
    "pruner": lambda _: pruner(KEPT),
    "editor": lambda _: editor(),
}
