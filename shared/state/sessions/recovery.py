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
from typing import Final, Generic, TypeVar

from shared.host.clock import timestamp
from shared.host.errors import LockedError
from shared.host.host_identity import HostIdentity
from shared.host.process_identity import ProcessIdentity
from shared.state.contents import Contents
from shared.state.records import SessionRecord
from shared.state.rules import claims
from shared.state.sessions.heartbeat import BEATS_PER_LEASE, beat_path, read_beat
from shared.state.sessions.orphans import end_orphan
from shared.state.store.database import Database
from shared.state.store.lease import LEASE_FRACTION, break_dead_holder, break_lease
from shared.state.store.operations import ReadLease

V = TypeVar("V")
log: Final = logging.getLogger(__name__)


@dataclass
class Watch(Generic[V]):
    """Tells whether a value was *seen* not to change for the lease time, without comparing clocks.

    Time during which the watcher did not look (it was paused, the NAS hung, the machine slept) does
    not count. `poll_seconds` is how often the watcher means to look.
    """

    lease_seconds: float
    poll_seconds: float
    _value: V | None = None
    _last: float | None = None
    #: Seconds for which the value was seen unchanged.
    unchanged_seconds: float = 0.0

    def observe(self, value: V, before: float) -> bool:
        """Takes note of `value`, read after the moment `before` (monotonic seconds).

        Answers whether the lease time is over.

        `before` must have been taken before the read began: a read that hung for minutes must not
        count as minutes of silence.
        """
        if self._last is None or value != self._value:
            self.unchanged_seconds = 0.0
        elif 0 <= before - self._last <= 2 * self.poll_seconds:
            self.unchanged_seconds += before - self._last
        self._value, self._last = value, before
        return self.unchanged_seconds >= self.lease_seconds

    def changed(self, value: V) -> bool:
        """Whether `value` differs from the last one observed."""
        return self._last is not None and value != self._value


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
    """Commits that these sessions are over, which frees what they held.

    Ends exports that they left running on this machine.
    """
    buried = list(dead)
    if not buried:
        return []
    when = timestamp(database.clock.now())

    def change(contents: Contents) -> Contents:
        for grave in buried:
            contents = claims.expire(
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


def free_ownerless(database: Database, reason: str, worker: str) -> Contents:
    """Frees the VMs whose sessions are over or have no row, if there are any.

    Returns the contents afterwards. An older program or a row removed by hand leaves such VMs.
    """
    contents = database.head().contents
    if not (ownerless := claims.ownerless(contents)):
        return contents
    when = timestamp(database.clock.now())
    log.warning("sessions without a row held VMs, which are free again: %s", ", ".join(ownerless))
    return database.commit_once(
        lambda head: claims.free_ownerless(head, reason, when),
        f"freed what {', '.join(ownerless)} held",
        worker,
    ).contents


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
