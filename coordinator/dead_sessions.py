"""The sessions of a host that crashed: which of them are dead, and freeing what those held."""

from typing import TYPE_CHECKING

from coordinator import liveness
from shared.host.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.site import Site
    from shared.state.contents import Contents
    from shared.state.host_records import SessionRecord
    from shared.state.records import VmRecord


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
    from shared.state.sessions.deaths import live_sessions, proven_dead, three_beats

    rows = live_sessions(contents, node)
    dead = {row.id: (row, proof) for row in rows if (proof := proven_dead(row, site.identity))}
    doubtful = [row for row in rows if row.id not in dead]
    seconds = three_beats(site.database.version.lease_seconds)
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


def free_readers(site: "Site") -> None:
    """Lets go of the copies that mounts of this host held which are proven to be dead.

    The next `database` worker would; whoever is in need of such a copy does not wait for it. Raises
    what a commit raises.
    """
    from shared.state.sessions.deaths import find_proven
    from shared.state.sessions.recovery import expire

    found = find_proven(site.database, site.database.head().contents)
    expire(site.database, [grave for grave in found if grave.session.reads], "mount")


def free_holder(site: "Site", key: str) -> None:
    """Lets go of a VM that a process of this host held which is proven to be dead.

    The next `database` worker would; the command that was killed is given again at once. Raises
    what a commit raises.
    """
    from shared.state.sessions.deaths import find_proven
    from shared.state.sessions.recovery import expire

    contents = site.database.head().contents
    claim = contents.vms[key].claim if key in contents.vms else None
    if claim is not None and claim.purpose == "verify":
        found = find_proven(site.database, contents)
        expire(
            site.database, [dead for dead in found if dead.session.id == claim.session], "restore"
        )


def free(site: "Site", node: str, dead: "Mapping[str, tuple[SessionRecord, str]]") -> None:
    """Breaks the host's lease on the database, if it is dead, and ends its dead sessions."""
    from shared.state.sessions.deaths import Dead
    from shared.state.sessions.recovery import expire, recover_lease
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
