"""Who holds what: the lease on the database, sessions, claims on VMs.

Nothing here is decided for the machines: workers judge for themselves, by watching. This is what a
person sees at once.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from coordinator.liveness import Verdict, Watched, age_of, by_age, verdict
from coordinator.text import seconds_since
from shared.host.errors import DatabaseVersionError, NasError
from shared.host.printable import quoted
from shared.state.host_records import SessionRecord
from shared.state.rules import expiry
from shared.state.sessions.deaths import live_sessions
from shared.state.sessions.heartbeat import beat_path, parse_beat
from shared.state.sessions.sweeping import nas_now

if TYPE_CHECKING:
    from shared.site import Site
    from shared.state.contents import Contents
    from shared.state.records import VmRecord
    from shared.state.store.database import Database

Kind = Literal["database", "session", "claim"]

#: The name of the lock on the database itself.
DATABASE: Final = "database"


@dataclass(frozen=True, slots=True)
class Lock:
    """One line of `vmbackup-lock list`.

    Ages are by the NAS's clock, for display; None where unknown. `why` explains `state`.
    """

    name: str
    kind: Kind
    node: str
    host: str
    pid: int | None
    vm: str | None
    held_seconds: float | None
    heartbeat_seconds: float | None
    lease_seconds: float
    state: Verdict
    why: str
    session: str | None = None
    worker: str | None = None
    purpose: str | None = None
    since: str | None = None
    phase: str | None = None
    percent: float | None = None
    bytes_done: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As `list --json` shows it."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def gather(
    site: "Site",
    contents: "Contents",
    watched: Watched | None = None,
    *,
    told: Callable[[str], None] | None = None,
) -> list[Lock]:
    """All locks: the database's, sessions with their claims.

    Takes no lock itself; writes nothing but a directory that shows the time. Raises `NasError` if
    the lease cannot be read; with `told` that is said there, and the others are shown.
    """
    database = site.database
    nas_time = _nas_time(database, site.clock.now())
    try:
        locks = list(_database_lock(database, contents, nas_time))
    except NasError as error:
        if told is None:
            raise
        told(f"{error.message} ({error.hint})" if error.hint else error.message)
        locks = []
    for row in sorted(live_sessions(contents), key=lambda row: row.id):
        session = _session_lock(site, row, nas_time, watched)
        locks += _with_claims(session, contents, site.clock.now())
    for session in _rowless(site, contents, nas_time):
        locks += _with_claims(session, contents, site.clock.now())
    return locks


def _with_claims(session: Lock, contents: "Contents", now: datetime) -> list[Lock]:
    """The lock of a session, and those of the VMs that it holds."""
    claimed = (
        record
        for record in contents.vms.values()
        if record.claim and record.claim.session == session.name
    )
    return [session, *(_claim_lock(session, record, now) for record in claimed)]


def _rowless(site: "Site", contents: "Contents", nas_time: float) -> Iterator[Lock]:
    """The sessions that hold VMs though no row says that they live."""
    held = {record.claim.session for record in contents.vms.values() if record.claim}
    live = {row.id for row in live_sessions(contents)}
    for name in sorted(held - live):
        row = contents.sessions.get(name) or SessionRecord(name, 0, 0, "expired", "")
        if expiry.may_live(contents, name):
            state: Verdict = "unknown"
            why = (
                "the row of its session does not fit, so whether it lives cannot be told; "
                f"`vmbackup-lock break {quoted(name)} --force` removes the row"
            )
        else:
            state, why = "dead", "its session is over; the next database worker frees it"
        yield replace(_session_lock(site, row, nas_time, None), state=state, why=why)


def _nas_time(database: "Database", local: datetime) -> float:
    try:
        return nas_now(database)
    except (OSError, DatabaseVersionError):
        return local.timestamp()  # a read-only NAS, or one on which this program must not write


def _database_lock(database: "Database", contents: "Contents", nas_time: float) -> Iterator[Lock]:
    from shared.state.store.lease import LEASE_FRACTION, is_provably_dead, parse_marker
    from shared.state.store.operations import ReadLease

    found = database.files.perform(ReadLease())
    if found is None:
        return
    marker = parse_marker(found[0])
    lease = database.version.lease_seconds * LEASE_FRACTION
    age = age_of(nas_time, found[1] / 1e9)
    state, why = by_age(age, lease)
    if marker is not None and is_provably_dead(marker):
        state, why = "dead", f"its process {marker.pid} on this host is gone"
    host = marker.hostname if marker else ""
    node = next(
        (known.name for known in contents.nodes.values() if host and known.hostname == host), ""
    )
    yield Lock(
        DATABASE,
        "database",
        node,
        host,
        marker.pid if marker else None,
        None,
        None,
        age,
        lease,
        state,
        why,
    )


def _session_lock(
    site: "Site", row: SessionRecord, nas_time: float, watched: Watched | None
) -> Lock:
    lease = site.database.version.lease_seconds
    beat, touched = _read_beat(site.database, row.id)
    age = None if touched is None else age_of(nas_time, touched)
    state, why = verdict(site, row, age, watched)
    return Lock(
        row.id,
        "session",
        row.node,
        row.hostname,
        row.pid or None,
        beat.get("vm") or row.reads or None,
        seconds_since(row.since, site.clock.now()),
        age,
        lease,
        state,
        why,
        session=row.id,
        worker=row.worker,
        since=row.since,
        **{name: beat.get(name) for name in ("phase", "percent", "bytes_done")},
    )


def _claim_lock(session: Lock, record: "VmRecord", now: datetime) -> Lock:
    claim = record.claim
    if claim is None:
        raise ValueError(f"{record.key} is not claimed")
    here = session.vm in (record.key, record.name)  # else the session is at another of its VMs
    return Lock(
        record.key,
        "claim",
        session.node,
        session.host,
        session.pid,
        record.key,
        seconds_since(claim.since, now),
        session.heartbeat_seconds,
        session.lease_seconds,
        session.state,
        session.why,
        session=session.name,
        worker=session.worker,
        purpose=claim.purpose,
        since=claim.since,
        phase=session.phase if here else None,
        percent=session.percent if here else None,
        bytes_done=session.bytes_done if here else None,
    )


def _read_beat(database: "Database", session: str) -> tuple[Mapping[str, Any], float | None]:
    """What the heartbeat says and when it was written.

    Opened and read, because a look alone may be a minute old on NFS.
    """
    from shared.nas.reading import list_fresh, open_file

    directory = database.root / "node"
    path = beat_path(directory, session)
    if path is None:
        return {}, None
    try:
        list_fresh(directory)
        with open_file(path) as file:
            return parse_beat(file.read()), os.fstat(file.fileno()).st_mtime
    except OSError:
        return {}, None
