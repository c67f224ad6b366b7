"""Workers that claim a VM and back it up, and one that takes over from another whenever it likes,
as real sessions on a real database.
"""

import contextlib
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final

from shared.host.clock import Clock
from shared.host.errors import NasError, VmBackupError
from shared.host.host_identity import HostIdentity
from shared.host.process_identity import ProcessIdentity
from shared.state.host_records import NodeRecord, SessionRecord
from shared.state.records import CopyRecord
from shared.state.rules import backup as backup_rules
from shared.state.rules import claims, expiry
from shared.state.sessions.session import Session
from shared.state.states import State
from shared.state.store import protocol
from shared.state.store.database import Database
from shared.state.store.protocol import Author, Change
from shared.state.store.snapshot import Snapshot
from shared.state.store.state_files import StateFiles
from shared.state.store.version import DatabaseVersion
from tests.protocol import nas
from tests.protocol.nas import PlaceCopy, World
from tests.protocol.process import Program
from tests.protocol.programs import REPOSITORY, WHEN, consistent, start, vm

VM: Final = "web01"
LEASE_SECONDS: Final = 300.0
Told = list[tuple[tuple[str, int], str]]


class StillClock:
    """Always the same time: a process must be a function of the answers it gets."""

    def now(self) -> datetime:
        return datetime(2026, 11, 22, 20, 38, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    boottime = monotonic

    def sleep(self, seconds: float) -> None:
        """Time does not matter to the search."""

    def jitter(self, limit: float) -> float:
        return 0.0


class _NoLease:
    """The lease is no part of the safety: the search does without."""

    def held(self) -> "_NoLease":
        return self

    def __enter__(self) -> bool:
        return False

    def __exit__(self, *_: object) -> None:
        """Nothing was taken."""


class _NoHeartbeat:
    """False suspicion may come at any time, whatever the heart does."""

    def start(self) -> None:
        """Nothing to write."""

    stop = check = start


def new_database(status: State = State.BACKUP_NECESSARY) -> World:
    """A database with one VM, on a node that has joined already."""
    world = start(vm(VM, status))
    first = nas.head(world)
    contents = first.contents.with_node(NodeRecord("n", "machine", "n"))
    return nas.initial(protocol.encode(first.header, contents))


class Worker:
    """A session of production, and what it was told of each of its commits."""

    def __init__(
        self, files: StateFiles, name: str, clock: Clock | None = None, *, view: bool = False
    ) -> None:
        settings = DatabaseVersion("0", REPOSITORY, LEASE_SECONDS, "link")
        self.database = Database(
            files,
            settings,
            HostIdentity("n", "n", "machine", "boot", "space"),
            clock or StillClock(),
            lease=_NoLease(),
        )
        self.database.commit_once = self._commit_once
        if not view:
            self.database.publish_view = lambda name=None: False
        self._alone = count(1)
        self.session = Session(
            self.database,
            "backup",
            process=ProcessIdentity(1, 0.0),
            identifier=name,
            heart=lambda *_: _NoHeartbeat(),
        )
        self.told: Told = []

    def commit(self, change: Change) -> Snapshot | None:
        """Commits as production does; None when that failed."""
        try:
            head = self.session.commit(change, "test")
        except VmBackupError as error:
            self.told.append(((self.session.id, self.session.sequence), type(error).__name__))
            return None
        self.told.append(((self.session.id, self.session.sequence), "done"))
        return head

    def expire(self, victim: str) -> None:
        """Declares another session dead, rightly or wrongly."""
        with contextlib.suppress(VmBackupError):
            self._commit_once(lambda contents: expiry.expire(contents, [victim], "silent", WHEN))

    def break_claim(self, victim: str) -> None:
        """Takes the VM from another session, which stays alive, as an operator does by hand."""
        own = self.database.files.run(protocol.read_head()).contents.vms[VM].claim
        if own is not None and own.session == victim:
            with contextlib.suppress(VmBackupError):
                self._commit_once(
                    lambda contents: claims.break_claim(contents, VM, own.number, "by hand", WHEN)
                )

    def _commit_once(self, change: Change, reason: str = "by another", _: str = "") -> Snapshot:
        """As `Database.commit_once` does, under a name that is the same each time the process is
        run.
        """
        record = SessionRecord(f"{self.session.id}.{next(self._alone)}", 0, 0, "ended", "n")
        return self.database.transact(Author(record, 1, WHEN, reason), change)


def backs_up(worker: Worker, *, intends: bool = True) -> None:
    """A backup: claim, intend, put the copy in place, commit it.

    Stops at the first commit that fails.
    """
    head = worker.commit(
        lambda contents: claims.grant(contents, VM, worker.session.id, "backup", WHEN)
    )
    own = head and head.contents.vms[VM].claim
    if head is None or own is None or own.session != worker.session.id:
        return
    copy = CopyRecord(f"stamp-{own.number}", own.number, 1, "0" * 64, WHEN, {})
    if intends:
        head = worker.commit(lambda contents: backup_rules.intend(contents, VM, own, copy))
        if head is None:
            return
    worker.database.files.perform(PlaceCopy(own.number))
    if not intends:
        worker.commit(lambda contents: backup_rules.intend(contents, VM, own, copy))
    worker.commit(lambda contents: backup_rules.published(contents, VM, own))


def finishes(worker: Worker) -> None:
    """Finishes what another worker had announced, else makes a backup of its own."""
    record = worker.database.files.run(protocol.read_head()).contents.vms[VM]
    if record.publishing is None or record.claim is not None:
        backs_up(worker)
    else:
        publishes(worker)


def publishes(worker: Worker) -> None:
    """Finishes what another worker had announced."""
    head = worker.commit(
        lambda contents: claims.grant(contents, VM, worker.session.id, "publish", WHEN)
    )
    own = head and head.contents.vms[VM].claim
    if head is None or own is None or own.session != worker.session.id:
        return
    publishing = head.contents.vms[VM].publishing
    assert publishing is not None
    worker.database.files.perform(PlaceCopy(publishing.claim))
    worker.commit(lambda contents: backup_rules.published(contents, VM, own))


def backup(name: str, *, intends: bool = True, ends: bool = False) -> Program:
    """A worker that backs the VM up."""

    def program(files: StateFiles) -> Hashable:
        worker = Worker(files, name)
        with contextlib.suppress(NasError), worker.session if ends else contextlib.nullcontext():
            backs_up(worker, intends=intends)
        return tuple(worker.told)

    return program


def takeover(name: str, victim: str, *, by_hand: bool = False) -> Program:
    """A worker that declares `victim` dead at any moment, or breaks its claim by hand, and goes on
    with what it had.
    """

    def program(files: StateFiles) -> Hashable:
        worker = Worker(files, name)
        with contextlib.suppress(NasError):
            (worker.break_claim if by_hand else worker.expire)(victim)
            finishes(worker)
        return tuple(worker.told)

    return program


def copies_are_announced(world: World, _: Sequence[Any]) -> str | None:
    """A copy is put in place only after its intent was committed, and whatever counts as the newest
    copy is in place.
    """
    announced, counted = set(), set()
    for number, data in enumerate(world.chain, start=1):
        for record in nas.read(data, number).contents.vms.values():
            announced |= {record.publishing.claim} if record.publishing else set()
            counted |= {record.last_copy.claim} if record.last_copy else set()
    if missing := set(world.placed) - announced:
        return (
            f"the copies of claims {sorted(missing)} were put in place by workers that had "
            f"been displaced"
        )
    if missing := counted - set(world.placed):
        return f"the copies of claims {sorted(missing)} count, but were not put in place"
    return None


def next_tick_recovers(world: World, _: Sequence[Any]) -> str | None:
    """Whatever was left, the next worker finds a way on from it, with no operator."""
    contents = nas.head(world).contents
    live = [row.id for row in contents.sessions.values() if row.state == "live"]
    contents = expiry.expire(contents, live, "gone", WHEN)
    record = contents.vms[VM]
    if record.publishing is not None:
        contents = claims.grant(contents, VM, "next", "publish", WHEN)
        own = contents.vms[VM].claim
        assert own is not None
        contents = backup_rules.published(contents, VM, own)
    if found := consistent(contents):
        return found
    status = contents.vms[VM].status
    return None if status in (State.CLEAN, State.BACKUP_NECESSARY) else f"{VM} stays {status}"
