"""`vmbackup-lock recover`."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from coordinator import liveness
from coordinator.commands.lock_break import BEATS_WATCHED
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.host.errors import ExitCode, NodeConflictError, UsageError
from shared.output import answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.site import Site
    from shared.state.contents import Contents
    from shared.state.records import SessionRecord, VmRecord


@documented(
    example="""
        vmbackup-lock recover
        vmbackup-lock recover host-b
        vmbackup-lock recover host-b --replaced
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.NAS],
)
@click.argument("node", required=False)
@click.option(
    "--replaced",
    is_flag=True,
    help="A new machine, or another user, takes over the name of that host.",
)
@json_option
@dry_run_option
@pass_invocation
def command(
    invocation: Invocation, *, node: str | None, replaced: bool, as_json: bool, dry_run: bool
) -> None:
    """Free all that a crashed host held: its sessions and claims, the database, partial files.

    NODE defaults to this host.

    Workers of other hosts do so by themselves after one lease time; this does it now. Refused while
    the host still shows heartbeats: then only what is dead by proof is freed. The VMs of another
    host are marked as missing there, so that a VM that was moved to a third host goes on there at
    once; they come back by themselves with their host.
    """
    from shared.state.sessions.recovery import require_silent
    from shared.tasks.partial_files import remove_partial_files

    site = _for_recovery(invocation, replaced=replaced)
    name = node or site.node
    contents = site.database.head().contents
    _require_known(contents, name)
    dead, alive = _judge(site, contents, name)
    if dry_run:
        _preview(contents, name, dead, _to_give_up(site, contents, name), as_json=as_json)
        require_silent(alive, name)
        return
    _free(site, name, dead)
    require_silent(alive, name)
    given_up = _to_give_up(site, contents, name)
    if given_up:
        _give_up(site, name)
    if replaced:
        _forget_machine(site, name)
    removed = remove_partial_files(site, site.database.head().contents, "recover")
    unfinished = _unfinished(site, name)
    answer(
        {
            **_document(contents, name, dead),
            "given_up": given_up,
            "dry_run": False,
            "removed": list(removed),
            "unfinished": unfinished,
        },
        *(f"removed {file}" for file in removed),
        *(
            f"the {what} of {key} is finished by the next database worker"
            for key, what in unfinished.items()
        ),
        f"recovered {name}: {len(dead)} sessions ended{_given_up(given_up)}",
        as_json=as_json,
    )


def _for_recovery(invocation: Invocation, *, replaced: bool) -> "Site":
    """The site. With `replaced`, this machine counts as one without a machine id.

    So it is not refused under the name of the machine that it replaces.
    """
    site = invocation.site(may_give_up_reserve=True)
    try:
        site.database.head()
    except NodeConflictError:
        if not replaced:
            raise
        site.database.identity = replace(site.database.identity, machine="")
    return site


def _require_known(contents: "Contents", node: str) -> None:
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


def _judge(
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


def _document(
    contents: "Contents", node: str, dead: "Mapping[str, tuple[SessionRecord, str]]"
) -> dict[str, object]:
    sessions = [
        {"id": row.id, "worker": row.worker, "reason": reason} for row, reason in dead.values()
    ]
    return {
        "node": node,
        "sessions": sessions,
        "vms": [record.key for record in _claimed(contents, dead)],
    }


def _claimed(
    contents: "Contents", dead: "Mapping[str, tuple[SessionRecord, str]]"
) -> "list[VmRecord]":
    return [
        record
        for record in contents.vms.values()
        if record.claim is not None and record.claim.session in dead
    ]


def _to_give_up(site: "Site", contents: "Contents", node: str) -> list[str]:
    """The VMs of another host to be marked as missing there, for whoever lists them to take."""
    if node == site.node:
        return []
    return sorted(
        record.key
        for record in contents.vms.values()
        if record.node == node and record.missing_since is None
    )


def _given_up(keys: list[str]) -> str:
    names = ", ".join(keys)
    return f"; its VMs count as missing there until it lists them again: {names}" if keys else ""


def _preview(
    contents: "Contents",
    node: str,
    dead: "Mapping[str, tuple[SessionRecord, str]]",
    given_up: list[str],
    *,
    as_json: bool,
) -> None:
    answer(
        {**_document(contents, node, dead), "given_up": given_up, "dry_run": True},
        *(f"would end session {row.id} ({row.worker}): {reason}" for row, reason in dead.values()),
        *(
            f"would free {record.key} ({record.claim.purpose})"
            for record in _claimed(contents, dead)
            if record.claim
        ),
        f"would recover {node}: {len(dead)} sessions{_given_up(given_up)}",
        as_json=as_json,
    )


def _free(site: "Site", node: str, dead: "Mapping[str, tuple[SessionRecord, str]]") -> None:
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


def _give_up(site: "Site", node: str) -> None:
    from shared.host.clock import timestamp
    from shared.state.rules import hosts

    when = timestamp(site.clock.now())
    site.database.commit_once(
        lambda contents: hosts.give_up(contents, node, when),
        f"recover {node}",
        "recover",
    )


def _forget_machine(site: "Site", node: str) -> None:
    from shared.state.rules import hosts

    machine, hostname = (
        (site.identity.machine, site.identity.hostname) if node == site.node else ("", "")
    )
    site.database.commit_once(
        lambda contents: hosts.replace_machine(contents, node, machine, hostname),
        f"{node} is another machine now",
        "recover",
    )


def _unfinished(site: "Site", node: str) -> dict[str, str]:
    """What the next database worker has to finish, by VM."""
    return {
        record.key: "publication" if record.publishing else str(record.moving)
        for record in site.database.head().contents.vms.values()
        if record.node == node and record.claim is None and (record.publishing or record.moving)
    }
