"""Which sessions are dead, and how that is known: whoever frees what they held asks here.

A session is dead by proof or by watching. Proof: it ran on this machine in this very boot, and its
process is gone. Watching: its heartbeat was seen unchanged for the whole lease time.

One of an earlier boot of this machine is in between. Nearly always the machine was restarted; but
of a full copy of a machine (disk, names and machine id), whose original still works, that looks the
same. Whoever lives beats, so three beats that fail to appear tell which it is.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from shared.host.host_identity import HostIdentity
from shared.host.logs import NOTICE
from shared.host.process_identity import ProcessIdentity
from shared.state.contents import Contents
from shared.state.host_records import SessionRecord
from shared.state.sessions.heartbeat import BEATS_PER_LEASE, read_beat
from shared.state.store.database import Database

V = TypeVar("V")
log: Final = logging.getLogger(__name__)

#: Who shows no new heartbeat in the time of this many is dead, if something else speaks for it:
#: the machine has another boot, or an operator asks.
BEATS_WATCHED: Final = 3


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
    """A session that is no more, and how that is known.

    `by_hand`: an operator ends it, whether its worker lives or not; `reason` says so.
    """

    session: SessionRecord
    reason: str
    by_hand: bool = False


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
    there = _identity(row)
    if not here.same_machine(there) or not here.boot or here.boot != there.boot:
        return None
    if not ProcessIdentity(row.pid, row.started, row.born).is_alive():
        return f"its process {row.pid} is gone"
    return None


def of_another_boot(row: SessionRecord, here: HostIdentity) -> bool:
    """Whether the session is of this machine before it was restarted, or of a full copy of it."""
    there = _identity(row)
    return here.same_machine(there) and here.restarted_since(there)


def silence_seconds(row: SessionRecord, here: HostIdentity, lease_seconds: float) -> float:
    """How long its heartbeat has to be seen unchanged before the session counts as dead."""
    return three_beats(lease_seconds) if of_another_boot(row, here) else lease_seconds


def three_beats(lease_seconds: float) -> float:
    """The time in which a session shows three heartbeats."""
    return lease_seconds / BEATS_PER_LEASE * BEATS_WATCHED


def _identity(row: SessionRecord) -> HostIdentity:
    return HostIdentity(row.node, row.hostname, row.machine, row.boot, row.space)


def find_proven(database: Database, contents: Contents) -> list[Dead]:
    """The sessions that are dead by proof."""
    return _proven(live_sessions(contents), database.identity)


def _proven(rows: Iterable[SessionRecord], here: HostIdentity) -> list[Dead]:
    found = ((row, proven_dead(row, here)) for row in rows)
    return [Dead(row, reason) for row, reason in found if reason is not None]


def find_here(database: Database, rows: Iterable[SessionRecord]) -> list[Dead]:
    """Those of the sessions that ran on this machine and are dead.

    By proof, or of an earlier boot: those are watched for three heartbeats, if there are any.
    """
    rows, here = list(rows), database.identity
    earlier = [row for row in rows if of_another_boot(row, here)]
    seconds = three_beats(database.version.lease_seconds)
    if earlier:
        log.warning(
            "sessions of an earlier boot of this machine are watched for %.0f s: %s",
            seconds,
            ", ".join(row.id for row in earlier),
        )
    return [*_proven(rows, here), *watch_silent(database, earlier, seconds)]


def find_silent(database: Database, rows: Iterable[SessionRecord]) -> list[Dead]:
    """Those of the sessions that are silent for the lease time: see `watch_silent`."""
    return watch_silent(database, rows, database.version.lease_seconds)


def watch_silent(
    database: Database,
    rows: Iterable[SessionRecord],
    seconds: float,
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Dead]:
    """Watches sessions until each has either shown a new heartbeat or been silent for `seconds`.

    Or for less, if less tells that it is dead (`silence_seconds`). Bounded: twice that time.

    Returns the silent ones. A NAS that does not answer in between makes nobody silent.
    """
    lease, here = database.version.lease_seconds, database.identity
    poll = lease / BEATS_PER_LEASE / 2
    watches = {
        row.id: (row, Watch[bytes | None](min(seconds, silence_seconds(row, here, lease)), poll))
        for row in rows
    }
    silent: list[Dead] = []
    if watches:
        what = "waiting for signs of life of %s, %.0f s at most"
        log.log(NOTICE, what, ", ".join(sorted(watches)), 2 * seconds + 2 * poll)
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
                if beat is not None and of_another_boot(row, here):
                    _warn_of_a_copy(row)
                del watches[identifier]
            elif watch.observe(beat, before):
                silent.append(Dead(row, _reason(row, here, watch.unchanged_seconds)))
                del watches[identifier]
        if watches:
            progress(max(watch.unchanged_seconds for _, watch in watches.values()))
            database.clock.sleep(poll)
    return silent


def _reason(row: SessionRecord, here: HostIdentity, seconds: float) -> str:
    silent = f"no heartbeat for {seconds:.0f} s"
    return f"its machine was restarted, and {silent}" if of_another_boot(row, here) else silent


def _warn_of_a_copy(row: SessionRecord) -> None:
    """Two machines that take each other for themselves also mark each other's VMs as missing."""
    log.warning(
        "session %s lives, on another machine that has the names and the machine id of this one: "
        "give the copy its own (`host.node`, host name, /etc/machine-id)",
        row.id,
        extra={"session": row.id},
    )
