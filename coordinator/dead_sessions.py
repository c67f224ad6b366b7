"""The sessions of a host that crashed: which of them are dead, and freeing what those held."""

from typing import TYPE_CHECKING

from coordinator import liveness
from coordinator.commands.lock_break import BEATS_WATCHED
from shared.host.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.site import Site
    from shared.state.contents import Contents
    from shared.state.records import SessionRecord, VmRecord


def require_known(contents: "Contents", node: str) -> None:
    """Raises `UsageError` for a host that the database does not know."""
    known = {
        *contents.nodes,
        *(row.key for row in contents.unusable if row.section == "nodes"),
        *(record.node for record in contents.vms.values()),
        *(row.node for row in contents.sessions.values()),
    }
    if node not in known - {""}:
        raise UsageError(
            f"the database knows no host {node!r}",
            hint=f"known: {', '.join(sorted(known - {''})) or 'none'}",
        )


def judge(
    site: "Site", contents: "Contents", node: str
) -> "tuple[Mapping[str, tuple[SessionRecord, str]], Mapping[str, SessionRecord]]":
    """The live sessions of the host.

    Those that are dead, each with the reason, and those that showed a heartbeat or could not be
    read.
    """
    from shared.state.sessions.recovery import live_sessions, proven_dead

    rows = live_sessions(contents, node)
    dead = {row.id: (row, proof) for row in rows if (proof := proven_dead(row, site.identity))}
    doubtful = [row for row in rows if row.id not in dead]
    seconds = site.database.version.lease_seconds / 10 * BEATS_WATCHED
    silent = liveness.watch(site, doubtful, seconds).silent if doubtful else ()
    dead |= {
        row.id: (row, f"recovered by hand, no heartbeat for {seconds:.0f} s")
        for row in doubtful
        if row.id in silent
    }
    return dead, {row.id: row for row in rows if row.id not in dead}


def claimed(
    contents: "Contents", dead: "Mapping[str, tuple[SessionRecord, str]]"
) -> "list[VmRecord]":
    """The VMs that dead sessions hold."""
    return [
        record
        for record in contents.vms.values()
        if record.claim is not None and record.claim.session in dead
    ]


def free(site: "Site", node: str, dead: "Mapping[str, tuple[SessionRecord, str]]") -> None:
    """Breaks the host's lease on the database, if it is dead, and ends its dead sessions."""
    from shared.state.sessions.recovery import Dead, expire, recover_lease
    from shared.state.store.lease import parse_marker
    from shared.state.store.operations import ReadLease

    hostnames = {row.hostname for row, _ in dead.values()}
    known = site.database.head().contents.nodes.get(node)
    if known is not None:
        hostnames.add(known.hostname)
    found = site.database.files.perform(ReadLease())
    marker = parse_marker(found[0]) if found else None
    if marker is not None and marker.hostname in hostnames:
        recover_lease(site.database)
    expire(site.database, [Dead(row, reason) for row, reason in dead.values()], "recover")
