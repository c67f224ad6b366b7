"""The state database as the rest of the program uses it: read it, commit to it, open a session on it."""

import contextlib
import json
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.clock import Clock, timestamp
from shared.errors import DatabaseDamagedError, NasError, NoDatabaseError, VmBackupError
from shared.process import HostIdentity
from shared.statedb import changes, protocol, version
from shared.statedb.files import DIRECTORIES, StateFiles
from shared.statedb.lease import DatabaseLease
from shared.statedb.nas import is_passing, is_passing_refusal, list_fresh, nas_error, read_file
from shared.statedb.operations import ReadGeneration
from shared.statedb.protocol import Author, Change
from shared.statedb.records import Contents, SessionRecord
from shared.statedb.session import Session, new_session_id
from shared.statedb.snapshot import Snapshot, decode

if TYPE_CHECKING:
    from tenacity import Retrying

log: Final = logging.getLogger(__name__)

#: How far behind the head the generation that this host has seen is still compared: within what is never pruned.
_CHAIN_CHECKED: Final = 200
#: How long a transaction is repeated on errors of the NAS that pass by themselves.
_PASSING_SECONDS: Final = 30.0
_REREAD_SECONDS: Final = (0.2, 0.5, 1.0)


class Database:
    """One state database, as seen by one process. Get it from `open_database`.

    `notes` is a local directory where this host remembers the newest generation that it saw, to notice a history that went back.
    """

    def __init__(
        self, files: StateFiles, settings: version.DatabaseVersion, identity: HostIdentity, clock: Clock, notes: Path | None = None
    ) -> None:
        self.files = files
        self.root = files.root
        self.version = settings
        self.identity = identity
        self.clock = clock
        self._lease = DatabaseLease(files, settings.lease_seconds)
        self._seen = SeenGeneration(notes / f"seen-{settings.repository}.json" if notes else None)

    def head(self) -> Snapshot:
        """The newest generation. Takes no lock, never waits for a writer, never sees half a state.

        Raises `DatabaseDamagedError` when the history went back behind what this host has seen, and `NodeConflictError` when
        another machine uses this host's name.
        """
        head = self.files.run(protocol.read_head())
        for seconds in _REREAD_SECONDS:
            if head.generation >= self._seen.generation:
                break
            self.clock.sleep(seconds)
            head = self.files.run(protocol.read_head())
        self._check_history(head, synced=False)
        changes.check_node(head.contents, self.identity.node, self.identity.machine)
        return head

    def transact(self, author: Author, change: Change) -> Snapshot:
        """Commits under `author`, then brings `vmtool-statedb` up to date. See `protocol.transact`."""

        def checked(contents: Contents) -> Contents:
            changes.check_node(contents, self.identity.node, self.identity.machine)
            after = change(contents)
            if after == contents:
                return contents
            return changes.join(after, self.identity.node, self.identity.machine, self.identity.hostname)

        with self._lease.held():
            head = self._retrying()(lambda: self.files.run(protocol.transact(author, checked)))
            try:
                self.publish_view(f"{author.record.id}.{author.sequence}")
            except VmBackupError as error:  # the commit stands, whatever became of what is derived from it
                log.warning("vmtool-statedb is behind, the next commit or tick will write it: %s", error.message)
        self._check_history(head, synced=True)
        return head

    def _retrying(self) -> "Retrying":
        """Repeats a transaction on errors of the NAS that pass. That is safe: it has the same number, so it is applied once."""
        from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

        return Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, NasError) and is_passing(error.__cause__)),
            stop=stop_after_delay(_PASSING_SECONDS),
            wait=wait_exponential(multiplier=0.1, max=5),
            sleep=self.clock.sleep,
            reraise=True,
        )

    def commit_once(self, change: Change, reason: str, worker: str) -> Snapshot:
        """Commits `change` on its own, for processes that hold no claims."""
        record = SessionRecord(new_session_id(self.identity.node), 0, 0, "ended", self.identity.node, worker)
        return self.transact(Author(record, 1, timestamp(self.clock.now()), reason), change)

    def session(self, worker: str) -> Session:
        """A session for a process that will hold claims."""
        return Session(self, worker)

    def publish_view(self, name: str | None = None) -> bool:
        """Repairs `vmtool-statedb` if it is behind. Answers whether somebody had edited it; the edit is kept beside it."""
        edited = self.files.run(protocol.publish_view(name or new_session_id(self.identity.node)))
        if edited:
            log.warning(
                "vmtool-statedb had been edited by hand: the edit was kept as vmtool-statedb.edited-*, it has had no effect. "
                "To let it have one: vmbackup-admin statedb adopt"
            )
        return edited

    def renew_view(self) -> None:
        """`publish_view` for a tick that has more to do: what passes by itself is left to the next tick.

        Seen on SMB: a host whose network had been cut could not open `vmtool-statedb`, which others had replaced meanwhile, for more
        than ten seconds (EINVAL). Raises `NasError` if the NAS is full, read-only, gone.
        """
        try:
            self.publish_view()
        except NasError as error:
            if not is_passing_refusal(error.__cause__):
                raise
            log.warning("vmtool-statedb is behind, the next commit or tick will write it: %s", error.message)

    @contextlib.contextmanager
    def nas_errors(self) -> Iterator[None]:
        """Turns errors of the file system into `NasError`."""
        try:
            yield
        except OSError as error:
            raise nas_error(error, self.root) from error

    def _check_history(self, head: Snapshot, *, synced: bool) -> None:
        """Compares the head with what this host has seen. What may not be on the disk yet is not remembered, but what it was built on."""
        seen = self._seen
        if seen.generation > head.generation:
            self._went_back(f"it ends at generation {head.generation}, but this host has seen {seen.generation}")
        elif seen.generation == head.generation:
            if seen.checksum != head.checksum:
                self._went_back(f"generation {head.generation} is not the one that this host has seen")
            return
        elif seen.generation and head.generation - seen.generation < _CHAIN_CHECKED:
            data = self.files.perform(ReadGeneration(seen.generation))
            if data is not None and decode(data, seen.generation).checksum != seen.checksum:
                self._went_back(f"generation {seen.generation} is not the one that this host has seen")
        if synced:
            seen.remember(head.generation, head.checksum)
        elif head.generation - 1 > seen.generation:
            seen.remember(head.generation - 1, head.header.previous)

    def _went_back(self, what: str) -> None:
        raise DatabaseDamagedError(
            f"the history of the state database was rolled back or replaced: {what}",
            hint="the NAS lost writes or was restored from a backup. If that was on purpose, delete "
            f"{self._seen.path} on each host; if not, look at the NAS first",
        )


class SeenGeneration:
    """The newest generation that this host has seen, kept in a local file if `path` is given."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.generation = 0
        self.checksum = ""
        if path is not None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                document = json.loads(path.read_text(encoding="utf-8"))
                self.generation, self.checksum = int(document["generation"]), str(document["checksum"])

    def remember(self, generation: int, checksum: str) -> None:
        """Notes a generation. A note that cannot be written is done without: it only serves to raise an alarm."""
        self.generation, self.checksum = generation, checksum
        if self.path is None:
            return
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"generation": generation, "checksum": checksum}), encoding="utf-8")
            os.replace(temporary, self.path)
        except OSError as error:
            log.debug("generation not noted in %s: %s", self.path, error)


def open_database(root: Path, identity: HostIdentity, clock: Clock, notes: Path | None = None) -> Database:
    """Opens the state database below `root` (`$NAS_MOUNTPOINT/vmstate`).

    Raises `NoDatabaseError` if there is none, `DatabaseVersionError` or `DatabaseDamagedError` if it cannot be used, `NasError`.
    """
    settings = read_version(root)
    _refuse_links(root)
    return Database(StateFiles(root, clock, settings.primitive), settings, identity, clock, notes)


def _refuse_links(root: Path) -> None:
    """Raises `DatabaseDamagedError` if a directory of the database is a link: files behind it would be written, and swept."""
    try:
        with os.scandir(root) as entries:
            links = [entry.name for entry in entries if entry.name in DIRECTORIES and entry.is_symlink()]
    except OSError as error:
        raise nas_error(error, root) from error
    if links:
        raise DatabaseDamagedError(
            f"{root / links[0]} is a symbolic link, and must be a directory",
            hint="find out who put it there; then put the directory back, or make an empty one (`tmp`, `node`, `history`)",
        )


def read_version(root: Path) -> version.DatabaseVersion:
    """Reads `vmtool-db-version` below `root`. Raises as `open_database` does."""
    try:
        list_fresh(root)
        return version.parse(read_file(root / "vmtool-db-version"))
    except (FileNotFoundError, NotADirectoryError):
        raise NoDatabaseError(
            f"there is no state database in {root}",
            hint="is the right NAS mounted there? For a new one: vmbackup-admin init",
        ) from None
    except OSError as error:
        raise nas_error(error, root) from error
