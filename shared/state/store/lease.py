"""The lease on the database, `vmtool-dblock`: keeps writers from colliding.

It is no part of the safety of a commit. Of each host one writer at a time tries for it (`turn`).

The lease itself is filelock's. What filelock does not do on NFS and SMB, taking over from a holder
that died, is done here: its own take-over needs an exchange of two names, which network file
systems refuse. Every wait is bounded, because contended leases were seen to wedge on SMB; a writer
that gets no lease goes on without one and at worst repeats its transaction.
"""

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from shared.host.errors import NasError
from shared.host.kernel import PROCESS_LIMIT, exists
from shared.host.waits import waiting
from shared.nas.reading import list_fresh
from shared.state.store.operations import (
    PutLeaseBack,
    ReadLease,
    ReadTemporary,
    RemoveTemporary,
    Steps,
    TakeLeaseAside,
)
from shared.state.store.state_files import StateFiles
from shared.state.store.turn import Turn

if TYPE_CHECKING:
    from filelock import SoftFileLease

log: Final = logging.getLogger(__name__)

#: The lease on the database is held for milliseconds; it may be shorter than that of a session.
LEASE_FRACTION: Final = 1 / 5
#: Long enough for many writers; short, because contended leases on SMB are hardly ever had
#: (docs/nas.md).
_WAIT_SECONDS: Final = 3.0
_FIRST_LOOK_SECONDS: Final = 0.5
#: Short, because of each host one writer at a time asks.
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Marker:
    """What the lease marker says of its holder."""

    pid: int
    hostname: str
    token: str


def parse_marker(data: bytes) -> Marker | None:
    """Reads filelock's record; None for anything else, an empty marker included."""
    lines = data.decode("utf-8", errors="replace").splitlines()
    if not lines or not lines[0].startswith("filelock/"):
        return None
    values = dict(line.partition("=")[::2] for line in lines[1:])
    pid = values.get("pid", "")
    if not (pid.isascii() and pid.isdigit() and len(pid) < 12 and 0 < int(pid) < PROCESS_LIMIT):
        return None
    return Marker(int(pid), values.get("host", ""), values.get("token", ""))


def is_provably_dead(marker: Marker) -> bool:
    """Whether the holder ran on this machine and runs no more. Never true for another machine's."""
    return marker.hostname == socket.gethostname() and not exists(marker.pid)


def break_lease(judged: bytes, name: str) -> Steps[bool]:
    """Removes the marker whose bytes were judged stale; answers whether it was that one.

    The marker is renamed aside and then read: if a new holder's marker was caught instead, it is
    put back. Safe to run on several hosts at once, and to be killed at any point: what a break that
    is wrong costs is a lost race, never an update.
    """
    yield from TakeLeaseAside(name)
    found = yield from ReadTemporary(name)
    if found is None:
        return False
    if found != judged:
        yield from PutLeaseBack(name)
    yield from RemoveTemporary(name)
    return found == judged


def break_dead_holder(name: str) -> Steps[bool]:
    """Takes the lease from a process of this machine that is gone."""
    found = yield from ReadLease()
    if found is None:
        return False
    marker = parse_marker(found[0])
    if marker is None or not is_provably_dead(marker):
        return False
    return (yield from break_lease(found[0], name))


class Lease(Protocol):
    """What keeps the writers of a database apart, as far as that goes."""

    def held(self) -> AbstractContextManager[bool]:
        """For one transaction; False if it is not had, and the transaction goes on without."""


class DatabaseLease:
    """The lease of one process on one database.

    `turns` is a local file at which the writers of this host wait for their turn; None: they do
    not. It is asked for every `poll_seconds`; whether its holder is dead is looked at after
    `first_look_seconds`, and from then on it is waited for `wait_seconds` more.
    """

    def __init__(
        self,
        files: StateFiles,
        lease_seconds: float,
        *,
        wait_seconds: float = _WAIT_SECONDS,
        first_look_seconds: float = _FIRST_LOOK_SECONDS,
        poll_seconds: float = _POLL_SECONDS,
        turns: Path | None = None,
    ) -> None:
        self._files, self._turns = files, turns
        self._first_look_seconds, self._poll_seconds = first_look_seconds, poll_seconds
        self._lease_seconds = lease_seconds * LEASE_FRACTION
        self._wait_seconds = wait_seconds

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Holds the lease for one transaction.

        Yields False when it could not be had in time: the transaction is safe without it.
        """
        attempt = self.attempt()
        attempt.thread.start()
        try:
            with waiting(
                "the lease on the database, which another writer has",
                self._first_look_seconds + self._wait_seconds,
            ):
                self._wait_for(attempt)
            if not attempt.succeeded:
                log.info(
                    "no lease on the database within %g s: going on without it", self._wait_seconds
                )
            yield attempt.succeeded
        finally:
            attempt.give_up()

    def _wait_for(self, attempt: "LeaseAttempt") -> None:
        if not attempt.finished.wait(self._first_look_seconds):
            with contextlib.suppress(
                NasError
            ):  # the transaction will meet that error, too, if it lasts
                self._files.run(break_dead_holder(f"stale.{secrets.token_hex(4)}"))
            attempt.finished.wait(self._wait_seconds)

    def attempt(self) -> "LeaseAttempt":
        """One attempt to have the lease, not begun yet."""
        from filelock import SoftFileLease

        lease = SoftFileLease(
            os.fspath(self._files.root / "vmtool-dblock"),
            lease_duration=self._lease_seconds,
            poll_interval=self._poll_seconds,
            thread_local=False,
            mode=0o660,
        )
        return LeaseAttempt(lease, self._wait_seconds, Turn(self._turns))


@dataclass
class LeaseAttempt:
    """Acquires in `thread`, so that a file system that hangs holds up no transaction.

    Start that; `finished` is set when it is known whether it `succeeded`, after `wait_seconds` at
    the latest if the file system answers.
    """

    lease: "SoftFileLease"
    wait_seconds: float
    turn: Turn
    finished: threading.Event = field(default_factory=threading.Event)
    guard: threading.Lock = field(default_factory=threading.Lock)
    succeeded: bool = False
    abandoned: bool = False

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._acquire, name="database-lease", daemon=True)

    def _acquire(self) -> None:
        from filelock import LeaseSettingsMismatch, Timeout

        end = time.monotonic() + self.wait_seconds
        self.turn.take()
        try:
            list_fresh(
                Path(self.lease.lock_file).parent
            )  # filelock would make it, in the empty mount point of a NAS that is gone
            self.lease.acquire(timeout=max(0.0, end - time.monotonic()))
        except (Timeout, LeaseSettingsMismatch, OSError, RuntimeError) as error:
            # RuntimeError: no more threads
            log.debug("lease on the database not acquired: %s", error)
            self.turn.pass_on()
            self.finished.set()
            return
        with self.guard:
            self.succeeded = True
            if self.abandoned:
                self._release()
        self.finished.set()

    def give_up(self) -> None:
        """Releases the lease now, or as soon as the thread gets it."""
        with self.guard:
            self.abandoned = True
            if self.succeeded:
                self._release()

    def _release(self) -> None:
        try:
            self.lease.release()
        except OSError as error:
            log.info(
                "the lease on the database could not be released: %s; it expires by itself", error
            )
        finally:
            self.turn.pass_on()
