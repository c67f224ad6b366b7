"""What must hold after each commit of a drawn schedule, and in its end."""

from collections.abc import Callable
from typing import Final

from shared.state.sessions.heartbeat import BEATS_PER_LEASE
from shared.state.states import State
from shared.state.store.readable_view import render
from shared.state.store.snapshot import Snapshot
from tests.protocol import nas
from tests.protocol.claims import LEASE_SECONDS, VM
from tests.protocol.nas import World
from tests.protocol.programs import LOG, consistent

BEAT_SECONDS: Final = LEASE_SECONDS / BEATS_PER_LEASE


def lost(before: World, head: Snapshot) -> str | None:
    """Nothing that was there is missing after a commit."""
    old = nas.read(before.chain[-1], len(before.chain)).contents
    if (
        head.contents.vms[LOG].last_error.startswith(old.vms[LOG].last_error)
        and old.vms.keys() <= head.contents.vms.keys()
    ):
        return None
    return f"generation {head.generation} has lost what the one before it had"


def wrongly_expired(before: World, head: Snapshot, silence: Callable[[str], float]) -> str | None:
    """Whoever shows heartbeats is not expired for being silent.

    `silence`: for how many seconds a session was silent at a time.
    """
    old = nas.read(before.chain[-1], len(before.chain)).contents
    for identifier, row in old.sessions.items():
        expired = row.state == "live" and head.contents.sessions[identifier].state == "expired"
        if expired and silence(identifier) < LEASE_SECONDS - BEAT_SECONDS:
            return f"{head.header.session} expired {identifier}, which was never silent for long"
    return None


def unfinished(world: World) -> str | None:
    """What still waits for somebody when the next tick is over."""
    contents = nas.head(world).contents
    record = contents.vms[VM]
    live = [row.id for row in contents.sessions.values() if row.state == "live"]
    if (
        live
        or record.claim
        or record.publishing
        or record.moving
        or record.status == State.BACKUP_IN_PROGRESS
    ):
        return f"nobody goes on with {record}, sessions {live}"
    if world.view != render(contents):
        return f"vmtool-statedb is {world.view!r}, the head is {render(contents)!r}"
    return consistent(contents)
