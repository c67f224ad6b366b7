"""A session: one worker process as the database knows it.

It holds claims, shows a heartbeat, and is fenced when others expired it.
"""

import contextlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version as package_version
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from shared.host.clock import Clock, timestamp
from shared.host.errors import LockLostError, VmBackupError
from shared.host.host_identity import HostIdentity
from shared.host.process_identity import ProcessIdentity
from shared.host.signals import EndedError
from shared.state.contents import Contents
from shared.state.host_records import SessionRecord
from shared.state.records import Claim, VmRecord
from shared.state.rules import claims, expiry, readers
from shared.state.sessions.heartbeat import Doing, Heartbeat
from shared.state.store.protocol import Author, Change
from shared.state.store.snapshot import Snapshot

if TYPE_CHECKING:
    from shared.state.store.database import Database

log: Final = logging.getLogger(__name__)


class Session:
    """A process that may hold claims.

    Use it as a context manager; leaving it frees what is still held.

    After a crash nothing of it needs to be undone by hand: others see its heartbeat stop, or its
    process gone, and expire it.

    `process`: the one that it is of, if not this one; `identifier`: its name, if not a new one;
    `heart` makes its heartbeat.
    """

    def __init__(
        self,
        database: "Database",
        worker: str,
        *,
        process: ProcessIdentity | None = None,
        identifier: str = "",
        heart: Callable[..., Heartbeat] = Heartbeat,
    ) -> None:
        self._database = database
        if process is None:
            process = ProcessIdentity.of(os.getpid()) or ProcessIdentity(os.getpid(), time.time())
        identifier = identifier or new_session_id(database.identity.node)
        self._record = session_record(identifier, worker, database.identity, process)
        self._record = replace(self._record, since=timestamp(database.clock.now()))
        #: The number of its last commit, also of one that failed; 0: there was none.
        self.sequence = 0
        self._known = False
        #: The claim that this session holds, as far as its own commits tell.
        self.held: Claim | None = None
        #: The numbers of claims of which this session has left no partial file.
        self.tidied: set[int] = set()
        self.doing = Doing(worker)
        #: Its sign of life, which begins and ends with it.
        self.heartbeat = heart(
            database.root / "node",
            self.id,
            database.version.lease_seconds,
            database.clock,
            {
                name: getattr(self._record, name)
                for name in ("node", "hostname", "pid", "started", "born", "since")
            },
            self.doing,
            database.files.seconds_under_way,
        )

    @property
    def id(self) -> str:
        """Its name in the database and below `node/`."""
        return self._record.id

    @property
    def since(self) -> str:
        """When it began, for display."""
        return self._record.since

    def __enter__(self) -> Self:
        self._database.with_room(self._start)
        return self

    def _start(self) -> None:
        with self._database.nas_errors():
            self.heartbeat.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.sequence:
                self._end(*_how(error))
        except VmBackupError as failure:
            log.warning(
                "the session could not be ended (%s); others will expire it",
                failure.message,
                extra={"session": self.id},
            )
        finally:
            self.heartbeat.stop()

    def commit(self, change: Change, reason: str) -> Snapshot:
        """Commits `change` as this session.

        Raises `LockLostError` when it was expired, and whatever `change` raises.
        """
        self.check()
        return self._commit(self._record, change, reason)

    def read_copy(self, uuid: str, stamp: str, *, alone: bool = False) -> None:
        """Commits that this session reads a copy of the VM: it stays while the session lives.

        Raises `LockedError` while copies of that VM are being moved or removed; `alone`: also while
        one of them is being rehearsed.
        """
        self._record = replace(self._record, reads=f"{uuid}/{stamp}")
        self.commit(
            lambda contents: readers.begin(contents, self._record, alone=alone),
            f"read {stamp} of {uuid}",
        )

    def claim(self, change: Change, reason: str) -> tuple[VmRecord, Claim]:
        """Commits `change`, which claims a VM for this session, and answers what it claimed.

        A session holds one VM at a time.
        """
        record, own = claims.claimed_by(self.commit(change, reason).contents, self.id)
        self.held = own
        self.doing.vm, self.doing.phase = record.key, own.purpose
        return record, own

    def head(self) -> Snapshot:
        """The newest generation."""
        return self._database.head()

    @property
    def clock(self) -> Clock:
        """What time it is for the database."""
        return self._database.clock

    @property
    def lease_seconds(self) -> float:
        """How long others wait for a sign of life before they expire this session."""
        return self._database.version.lease_seconds

    def check(self) -> None:
        """Raises `LockLostError` when others may take this session for dead."""
        self.heartbeat.check()

    def _commit(self, record: SessionRecord, change: Change, reason: str) -> Snapshot:
        # also when the last commit failed: it may still arrive, and must not be taken for this one
        self.sequence += 1
        author = Author(
            record, self.sequence, timestamp(self._database.clock.now()), reason, known=self._known
        )
        head = self._database.transact(author, change)
        self._known = self._known or self.id in head.contents.sessions
        if self.held is not None and not claims.is_held(head.contents, self.held):
            self.held = None
        return head

    def _end(self, reason: str, failed: bool) -> None:  # noqa: FBT001 - both from `_how`
        when = timestamp(self._database.clock.now())

        def end(contents: Contents) -> Contents:
            return expiry.expire(
                contents, [self.id], reason, when, failed=failed, tidied=self.tidied
            )

        with contextlib.suppress(LockLostError):  # expired already: there is nothing left to end
            self._commit(expiry.tombstone(self._record, "ended"), end, "session ended")


def _how(error: BaseException | None) -> tuple[str, bool]:
    """How a worker ended, for the VMs that it held, and whether their backups count as failed."""
    if error is None:
        return "its worker ended", True
    if isinstance(error, KeyboardInterrupt):
        return "its worker stopped: it was interrupted from the keyboard", False
    told = f"its worker stopped: {error}" if str(error) else f"its worker stopped: {error!r}"
    return told, not isinstance(error, EndedError)


def new_session_id(node: str) -> str:
    """A name that no other session ever had: a file name anywhere, the host's name first."""
    return f"{re.sub(r'[^A-Za-z0-9-]', '_', node)}.{os.getpid()}.{secrets.token_hex(4)}"


def session_record(
    identifier: str, worker: str, host: HostIdentity, process: ProcessIdentity
) -> SessionRecord:
    """The row of a new live session."""
    return SessionRecord(
        id=identifier,
        sequence=0,
        generation=0,
        state="live",
        node=host.node,
        worker=worker,
        hostname=host.hostname,
        machine=host.machine,
        boot=host.boot,
        space=host.space,
        pid=process.pid,
        started=process.started,
        program=package_version("vmbackup"),
        born=process.born,
    )
