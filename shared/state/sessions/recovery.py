"""Freeing what dead sessions held: `deaths` says who is dead.

A wrong verdict costs a repeated backup, never a copy: whoever was expired by mistake is refused at
its next commit.
"""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterable, Mapping
from typing import Final

from shared.host.clock import timestamp
from shared.host.errors import LockedError
from shared.host.logs import NOTICE
from shared.state.contents import Contents
from shared.state.host_records import SessionRecord
from shared.state.rules import expiry
from shared.state.sessions.deaths import Dead, Watch
from shared.state.sessions.heartbeat import BEATS_PER_LEASE, beat_path
from shared.state.sessions.orphans import end_orphan
from shared.state.store.database import Database
from shared.state.store.lease import LEASE_FRACTION, break_dead_holder, break_lease
from shared.state.store.operations import ReadLease

log: Final = logging.getLogger(__name__)


def expire(database: Database, dead: Iterable[Dead], worker: str) -> list[Dead]:
    """Commits that these sessions are over, which frees what they held.

    Ends exports that they left running on this machine.
    """
    dead_sessions = list(dead)
    if not dead_sessions:
        return []
    when = timestamp(database.clock.now())

    def change(contents: Contents) -> Contents:
        for each in dead_sessions:
            died = f"the worker died: {each.reason}"
            contents = expiry.expire(
                contents,
                [each.session.id],
                each.reason if each.by_hand else died,
                when,
                found_on="" if each.by_hand else database.identity.node,
            )
        return contents

    names = ", ".join(each.session.id for each in dead_sessions)
    database.commit_once(change, f"expired {names}", worker)
    for each in dead_sessions:
        log.warning(
            "session %s (%s on %s) is %s: %s; what it held is free again",
            *(each.session.id, each.session.worker, each.session.node),
            *("over" if each.by_hand else "dead", each.reason),
            extra={"session": each.session.id},
        )
        end_orphan(database.root / "node", database.identity, each.session)
        path = beat_path(database.root / "node", each.session.id)
        if path is None:
            log.warning(
                "%r is no id of a session: somebody else wrote it; no file is looked for under it",
                each.session.id,
            )
            continue
        with contextlib.suppress(OSError):
            os.unlink(path)
    return dead_sessions


def free_ownerless(database: Database, reason: str, worker: str) -> Contents:
    """Frees the VMs whose sessions are over or have no row, if there are any.

    Returns the contents afterwards. An older program or a row removed by hand leaves such VMs.
    """
    contents = database.head().contents
    if not (ownerless := expiry.ownerless(contents)):
        return contents
    when = timestamp(database.clock.now())
    log.warning("sessions without a row held VMs, which are free again: %s", ", ".join(ownerless))
    return database.commit_once(
        lambda head: expiry.free_ownerless(head, reason, when),
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
    said = False
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
        if not said:
            what = "waiting until the lease on the database is let go of, %.0f s at most"
            log.log(NOTICE, what, end - clock.monotonic())
            said = True
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
