"""Finding sessions that are dead, and freeing what they held.

A session is dead by proof (it ran on this machine and its process is gone, or this machine was
restarted since) or by watching: its heartbeat was seen unchanged for the whole lease time. A wrong
verdict costs a repeated backup, never a copy: whoever was expired by mistake is refused at its next
commit.
"""

import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host.clock import timestamp
from shared.host.errors import LockedError
from shared.host.host_identity import HostIdentity
from shared.host.process_identity import ProcessIdentity
from shared.nas.reading import list_fresh
from shared.nas.writing import DIRECTORY_MODE, WRITE_TEST, sync_directory
from shared.state.records import Contents, SessionRecord
from shared.state.rules import changes
from shared.state.sessions.heartbeat import BEATS_PER_LEASE, beat_path, read_beat
from shared.state.sessions.orphans import end_orphan
from shared.state.sessions.watch import Watch
from shared.state.store.database import Database
from shared.state.store.lease import LEASE_FRACTION, break_dead_holder, break_lease
from shared.state.store.operations import ReadLease

log: Final = logging.getLogger(__name__)

#: A temporary file or heartbeat file without a session is swept when it is older than this, by the
#: NAS's own clock.
SWEEP_SECONDS: Final = 24 * 3600
#: What filelock leaves of a take-over in which its process died, and a write test that was killed.
_DEBRIS: Final = ("vmtool-dblock.break.", "vmtool-dblock.restore.", f"{WRITE_TEST}.")


@dataclass(frozen=True, slots=True)
class Dead:
    """A session that is no more, and how that is known."""

    session: SessionRecord
    reason: str


def live_sessions(contents: Contents, node: str | None = None) -> list[SessionRecord]:
    """The sessions that are not over, of one host or of all."""
    return [
        row
        for row in contents.sessions.values()
        if row.state == "live" and node in (None, row.node)
    ]


def proven_dead(row: SessionRecord, here: HostIdentity) -> str | None:
    """Why the session is certainly dead.

    None if that cannot be told from here, or not for certain: then its heartbeat is watched.
    """
    there = HostIdentity(row.node, row.hostname, row.machine, row.boot, row.space)
    if not here.same_machine(there):
        return None
    if here.restarted_since(there):
        return "its machine was restarted"
    if not ProcessIdentity(row.pid, row.started, row.born).is_alive():
        return f"its process {row.pid} is gone"
    return None


def find_proven(database: Database, contents: Contents) -> list[Dead]:
    """The sessions that are dead by proof."""
    found = ((row, proven_dead(row, database.identity)) for row in live_sessions(contents))
    return [Dead(row, reason) for row, reason in found if reason is not None]


def watch_silent(
    database: Database,
    rows: Iterable[SessionRecord],
    seconds: float,
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Dead]:
    """Watches sessions until each has either shown a new heartbeat or been silent for `seconds`.

    Bounded: twice that time.

    Returns the silent ones. A NAS that does not answer in between makes nobody silent.
    """
    poll = database.version.lease_seconds / BEATS_PER_LEASE / 2
    watches = {row.id: (row, Watch[bytes | None](seconds, poll)) for row in rows}
    silent: list[Dead] = []
    end = database.clock.monotonic() + 2 * seconds + 2 * poll
    while watches and database.clock.monotonic() < end:
        for identifier, (row, watch) in list(watches.items()):
            before = database.clock.monotonic()
            try:
                beat = read_beat(database.root / "node", identifier)
            except OSError as error:
                log.warning("cannot read the heartbeat of %s: %s", identifier, error)
                continue
            if watch.changed(beat):
                del watches[identifier]
            elif watch.observe(beat, before):
                silent.append(Dead(row, f"no heartbeat for {watch.unchanged_seconds:.0f} s"))
                del watches[identifier]
        if watches:
            progress(max(watch.unchanged_seconds for _, watch in watches.values()))
            database.clock.sleep(poll)
    return silent


def expire(database: Database, dead: Iterable[Dead], worker: str) -> list[Dead]:
    """Commits that these sessions are over, freeing what they held, and ends exports that they left running on this machine."""
    buried = list(dead)
    if not buried:
        return []
    when = timestamp(database.clock.now())

    def change(contents: Contents) -> Contents:
        for grave in buried:
            contents = changes.expire(
                contents, [grave.session.id], f"the worker died: {grave.reason}", when
            )
        return contents

    names = ", ".join(grave.session.id for grave in buried)
    database.commit_once(change, f"expired {names}", worker)
    for grave in buried:
        log.warning(
            "session %s (%s on %s) is dead: %s; what it held is free again",
            *(grave.session.id, grave.session.worker, grave.session.node, grave.reason),
            extra={"session": grave.session.id},
        )
        end_orphan(database.root / "node", database.identity, grave.session)
        path = beat_path(database.root / "node", grave.session.id)
        if path is None:
            log.warning(
                "%r is no id of a session: somebody else wrote it; no file is looked for under it",
                grave.session.id,
            )
            continue
        with contextlib.suppress(OSError):
            os.unlink(path)
    return buried


def recover_lease(database: Database) -> bool:
    """Breaks the lease on the database if its holder is dead.

    By proof, or by watching it for its lease time. Usually it is not held.
    """
    files, clock = database.files, database.clock
    name = f"stale.{secrets.token_hex(4)}"
    if files.run(break_dead_holder(name)):
        log.warning("broke the lease on the database: its holder on this host is gone")
        return True
    lease_seconds = database.version.lease_seconds * LEASE_FRACTION
    poll = lease_seconds / BEATS_PER_LEASE
    watch = Watch[tuple[bytes, int] | None](lease_seconds, poll)
    end = clock.monotonic() + 2 * lease_seconds + 2 * poll
    while clock.monotonic() < end:
        before = clock.monotonic()
        found = files.perform(ReadLease())
        if found is None or watch.changed(found):
            return False
        if watch.observe(found, before):
            broken = files.run(break_lease(found[0], name))
            if broken:
                log.warning(
                    "broke the lease on the database: its holder was silent for %.0f s",
                    watch.unchanged_seconds,
                )
            return broken
        clock.sleep(poll)
    return False


def sweep(database: Database, contents: Contents) -> list[str]:
    """Removes temporary files that nobody has touched for a day, and heartbeat files of sessions that are over.

    A tick with nothing to sweep lists three directories.
    """
    live = {row.id for row in live_sessions(contents)}
    over = {identifier for identifier, row in contents.sessions.items() if row.state != "live"}
    with database.nas_errors():
        found = [
            database.root / folder / name
            for folder in ("tmp", "node")
            for name in list_fresh(database.root / folder)
        ]
        found += [
            database.root / name for name in list_fresh(database.root) if name.startswith(_DEBRIS)
        ]
        doubtful = [path for path in found if path.name not in live]
        if not doubtful:
            return []
        now = nas_now(database)
        return [
            path.name
            for path in doubtful
            if (path.name in over or now - _touched(path) > SWEEP_SECONDS) and _removed(path)
        ]


def _removed(path: Path) -> bool:
    """Removes a file, or the directory in which a generation was prepared.

    False if that did not work, which the next sweep repeats.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path / "snapshot")
            os.rmdir(path)
        else:
            os.unlink(path)
    except OSError as error:
        log.info("not swept: %s", error)
        return False
    return True


def nas_now(database: Database) -> float:
    """What the NAS's clock says, asked by making a directory there.

    A directory's time is never the client's. Raises OSError.
    """
    database.require_writable()
    probe = database.root / "tmp" / f"clock.{secrets.token_hex(6)}"
    os.mkdir(probe, DIRECTORY_MODE)
    try:
        return os.stat(probe).st_mtime
    finally:
        os.rmdir(probe)
        sync_directory(database.root / "tmp")


def _touched(path: Path) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return float("inf")


def require_silent(alive: Mapping[str, SessionRecord], node: str) -> None:
    """Raises `LockedError` if sessions of a host that is to be recovered still show heartbeats."""
    if alive:
        names = ", ".join(sorted(alive))
        raise LockedError(
            f"{node} still shows heartbeats: {names}",
            hint=(
                "it has not crashed. End those processes on that host, or break a single lock: "
                "vmbackup-lock break NAME --force"
            ),
        )
