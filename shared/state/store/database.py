"""The state database as the rest of the program uses it.

Read it, commit to it, open a session on it.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from shared.host.clock import Clock, timestamp
from shared.host.errors import NasError, VmBackupError
from shared.host.host_identity import HostIdentity
from shared.host.process_identity import ProcessIdentity
from shared.host.waits import pausing
from shared.nas.nas_errors import is_passing, is_passing_refusal, nas_error
from shared.state import formats
from shared.state.contents import Contents
from shared.state.host_records import SessionRecord
from shared.state.rules import hosts
from shared.state.sessions.session import Session, new_session_id
from shared.state.store import protocol, readable, readable_view, reserve, version
from shared.state.store.lease import DatabaseLease, Lease
from shared.state.store.protocol import Author, Change
from shared.state.store.seen_history import SeenHistory
from shared.state.store.snapshot import Snapshot
from shared.state.store.state_files import StateFiles

if TYPE_CHECKING:
    from tenacity import Retrying

T = TypeVar("T")

log: Final = logging.getLogger(__name__)

#: How long a transaction is repeated on errors of the NAS that pass by themselves.
_PASSING_SECONDS: Final = 30.0
_REREAD_SECONDS: Final = (0.2, 0.5, 1.0)


class Database:
    """One state database, as seen by one process. Get it from `open_database`.

    `notes` is a local directory where this host remembers the newest generation that it saw, to
    notice a history that went back. `lease`: what keeps its writers apart; None: its own lease.
    """

    def __init__(
        self,
        files: StateFiles,
        settings: version.DatabaseVersion,
        identity: HostIdentity,
        clock: Clock,
        notes: Path | None = None,
        lease: Lease | None = None,
    ) -> None:
        self.files, self.root = files, files.root
        self.version = settings
        self.identity, self.clock = identity, clock
        turns = notes / f"writers-{settings.repository}.lock" if notes else None
        self._lease = lease or DatabaseLease(files, settings.lease_seconds, turns=turns)
        note = notes / f"seen-{settings.repository}.json" if notes else None
        self.seen = SeenHistory(note, settings.rebuilt)
        self._newer: str | None = None
        #: Whether the reserve may be given up: for commands that make room, or undo what is left.
        self.may_give_up_reserve = False
        self.note_format(settings.database_version)

    def head(self) -> Snapshot:
        """The newest generation. Takes no lock, never waits for a writer, never sees half a state.

        Raises `DatabaseDamagedError` when the history went back behind what this host has seen,
        `NodeConflictError` when another machine uses this host's name, and `DatabaseVersionError`
        when it is in a newer format that cannot even be read.
        """
        head = self.files.run(protocol.read_head(self.seen.generation))
        for seconds in _REREAD_SECONDS:
            if head.generation >= self.seen.generation:
                break
            self.clock.sleep(seconds)
            head = self.files.run(protocol.read_head(self.seen.generation))
        self.note_format(head.contents.format)
        self.seen.check(self.files, head, synced=False)
        hosts.check_machine(head.contents, self.identity.node, self.identity.machine)
        return head

    def transact(self, author: Author, change: Change) -> Snapshot:
        """Commits under `author`, then renews `vmtool-statedb`. See `protocol.transact`."""
        self.require_writable()

        def checked(contents: Contents) -> Contents:
            hosts.check_machine(contents, self.identity.node, self.identity.machine)
            after = change(contents)
            if after == contents:
                return contents
            return hosts.join(
                after, self.identity.node, self.identity.machine, self.identity.hostname
            )

        with self._lease.held():
            head = self.with_room(
                lambda: self._retrying()(
                    lambda: self.files.run(protocol.transact(author, checked, self.seen.generation))
                )
            )
            try:
                self.with_room(lambda: self.publish_view(f"{author.record.id}.{author.sequence}"))
            except (
                VmBackupError
            ) as error:  # the commit stands, whatever became of what is derived from it
                log.warning(
                    "vmtool-statedb is behind, the next commit or tick will write it: %s",
                    error.message,
                )
        self.seen.check(self.files, head, synced=True)
        return head

    def _retrying(self) -> "Retrying":
        """Repeats a transaction on errors of the NAS that pass.

        That is safe: it has the same number, so it is applied once.
        """
        from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

        return Retrying(
            retry=retry_if_exception(
                lambda error: isinstance(error, NasError) and is_passing(error.__cause__)
            ),
            stop=stop_after_delay(_PASSING_SECONDS),
            wait=wait_exponential(multiplier=0.1, max=5),
            sleep=pausing(self.clock.sleep, "a NAS that refuses a change", _PASSING_SECONDS),
            reraise=True,
        )

    def commit_once(self, change: Change, reason: str, worker: str) -> Snapshot:
        """Commits `change` on its own, for processes that hold no claims."""
        record = SessionRecord(
            new_session_id(self.identity.node), 0, 0, "ended", self.identity.node, worker
        )
        return self.transact(Author(record, 1, timestamp(self.clock.now()), reason), change)

    def session(self, worker: str, process: ProcessIdentity | None = None) -> Session:
        """A session for a process that will hold claims: this one, if none is given.

        Raises `DatabaseVersionError` like all that writes.
        """
        self.require_writable()
        return Session(self, worker, process=process)

    def publish_view(self, name: str | None = None) -> bool:
        """Repairs `vmtool-statedb` if it is behind.

        Answers whether somebody had edited it; the edit is kept beside it.
        """
        self.require_writable()
        edited = self.files.run(
            readable_view.publish_view(name or new_session_id(self.identity.node))
        )
        if edited:
            log.warning(
                "vmtool-statedb had been edited by hand: the edit was kept as "
                "vmtool-statedb.edited-*, it has had no effect. "
                "To let it have one: vmbackup-admin statedb adopt"
            )
        return edited

    def renew_view(self) -> None:
        """`publish_view` for a tick that has more to do.

        What passes by itself is left to the next tick.

        Seen on SMB: a host whose network had been cut could not open `vmtool-statedb`, which others
        had replaced meanwhile, for more than ten seconds (EINVAL). Raises `NasError` if the NAS is
        full, read-only, gone.
        """
        try:
            self.publish_view()
        except NasError as error:
            if not is_passing_refusal(error.__cause__):
                raise
            log.warning(
                "vmtool-statedb is behind, the next commit or tick will write it: %s", error.message
            )

    def with_room(self, action: Callable[[], T]) -> T:
        """Performs `action`, which may be performed twice: also on a full NAS, if that is allowed.

        See `reserve.with_room`.
        """
        if not self.may_give_up_reserve or self._newer is not None:
            return action()
        return reserve.with_room(self.root, self.clock, action)

    def keep_reserve(self, keep_free: int) -> None:
        """Makes the reserve if it is missing and there is room beside `keep_free` bytes.

        Nothing depends on it: what goes wrong is told, and left to the next tick.
        """
        self.require_writable()
        try:
            if size := reserve.keep(self.root, keep_free):
                log.info("made the reserve of the state database: %d bytes", size)
        except OSError as error:
            log.warning("the reserve of the state database could not be made: %s", error)

    def keep_readable(self, wanted: readable.Readable) -> None:
        """Gives others the right to read that `state.readable` says; see `readable.keep`.

        Nothing depends on it: what goes wrong is told, and left to the next tick.
        """
        self.require_writable()
        try:
            if changed := readable.keep(self.root, wanted):
                log.info("the rights of %d files and directories were changed", changed)
        except OSError as error:
            log.warning("state.readable could not be put into effect: %s", error)

    def require_writable(self) -> None:
        """Raises `DatabaseVersionError` if this program must not write anything.

        Asked before its first write, whatever that is.
        """
        if self._newer is not None:
            raise formats.too_new(self._newer)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must be told loudly."""
        if self._newer is None:
            return ()
        return (
            (
                f"{formats.too_new(self._newer).message}: what is shown may be incomplete, and "
                f"nothing is written; update vmbackup here"
            ),
        )

    def note_format(self, version: str | None) -> None:
        """Remembers that something of a newer format was seen here."""
        if version is not None and formats.is_newer(version):
            self._newer = version

    @contextlib.contextmanager
    def nas_errors(self) -> Iterator[None]:
        """Turns errors of the file system into `NasError`."""
        try:
            yield
        except OSError as error:
            raise nas_error(error, f"use the state database in {self.root}") from error
