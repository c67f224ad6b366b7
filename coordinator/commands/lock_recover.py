"""`vmbackup-lock recover`."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from coordinator import dead_host_work, dead_sessions, text
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.completion import HOST
from shared.host.errors import ExitCode, NodeConflictError
from shared.output import answer, warn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.dead_host_work import Settled
    from shared.site import Site
    from shared.state.contents import Contents
    from shared.state.host_records import SessionRecord


@documented(
    example="""
        vmbackup-lock recover
        vmbackup-lock recover host-b
        vmbackup-lock recover host-b --replaced
    """,
    codes=[ExitCode.SOME_FAILED, ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.NAS],
)
@click.argument("node", type=HOST, required=False)
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
) -> ExitCode:
    """Free all that a crashed host held, and finish what it had begun.

    Its sessions and claims, the database, partial files; then publications and moves are finished.
    NODE defaults to this host.

    Workers of other hosts do so by themselves after one lease time; this does it now. Refused while
    the host still shows heartbeats: then only what is dead by proof is freed. The VMs of another
    host are marked as missing there, so that a VM that was moved to a third host goes on there at
    once; they come back by themselves with their host.

    Only their own host can bring back VMs that its backups had saved or shut down, or remove a
    snapshot and a clone. Of another host, and of VMs that this one lists no more, it is noted that
    nobody will, so that they can be worked on again, and what may still be off or there is printed.
    No VM is started. Left to a host that has looked at its VMs lately. Given on the host itself, it
    is taken for known then which of its VMs may be off, and `check` no longer says so.
    """
    from shared.state.sessions.recovery import require_silent

    site = _for_recovery(invocation, replaced=replaced)
    name = node or site.node
    contents = site.database.head().contents
    dead_sessions.require_known(contents, name)
    dead, alive = dead_sessions.judge(site, contents, name)
    if dry_run:
        _preview(site, contents, name, dead, as_json=as_json)
        require_silent(alive, name)
        return ExitCode.DONE
    dead_sessions.free(site, name, dead)
    require_silent(alive, name)
    return _settle(site, contents, name, dead, replaced=replaced, as_json=as_json)


def _settle(
    site: "Site",
    contents: "Contents",
    name: str,
    dead: "Mapping[str, tuple[SessionRecord, str]]",
    *,
    replaced: bool,
    as_json: bool,
) -> ExitCode:
    """Settles what a host had begun that holds nothing any more. Each step may be repeated."""
    from shared.tasks.partial_files import remove_partial_files

    freed = [record.key for record in dead_sessions.claimed(contents, dead)]
    lately = dead_host_work.looked_seconds(site, contents, name)
    given_up = _to_give_up(site, contents, name)
    if lately is None:
        dead_host_work.leave_power(site, name)
    if given_up or any(record.also_on == name for record in contents.vms.values()):
        dead_host_work.give_up(site, name)
    if replaced:
        _forget_machine(site, name)
    settled = dead_host_work.finish(site, name, freed)
    if lately is None:  # of a VM whose copy somebody put in place meanwhile
        dead_host_work.leave_power(site, name)
    removed = remove_partial_files(site, site.database.head().contents, "recover")
    after = site.database.head().contents
    touched = dead_host_work.touched(after, name) if lately is not None else []
    _warn(name, settled, touched, lately)
    _tell(
        {
            **_document(contents, name, dead),
            "given_up": given_up,
            "dry_run": False,
            "removed": list(removed),
            "finished": settled.finished,
            "left": dead_host_work.left(after, name),
            "unfinished": dead_host_work.remaining(after, name, freed),
        },
        as_json=as_json,
    )
    if name == site.node:
        dead_host_work.accept_left(site)
    if settled.failed:
        return ExitCode.SOME_FAILED
    return ExitCode.LOCKED if touched else ExitCode.DONE


def _warn(node: str, settled: "Settled", touched: list[str], lately: float | None) -> None:
    """Says on stderr what could not be settled, and why."""
    for problem in settled.failed.values():
        warn(f"not finished: {problem}")
    if touched:
        warn(
            f"{node} looked at its VMs {text.duration(lately)} ago, and may only be between two "
            f"ticks: what its backups did to {', '.join(touched)} is left to it. If it is gone, "
            f"run this again when it has missed three looks (vmbackup-admin check tells)"
        )


def _tell(document: "Mapping[str, Any]", *, as_json: bool) -> None:
    node = document["node"]
    answer(
        document,
        *(f"removed {file}" for file in document["removed"]),
        *(f"finished the {what} of {key}" for key, what in document["finished"].items()),
        *(
            f"the {what} of {key} is finished by the next database worker"
            for key, what in document["unfinished"].items()
        ),
        *(f"{each['vm']}: {each['text']}" for each in document["left"]),
        f"recovered {node}: {len(document['sessions'])} sessions ended"
        f"{_given_up(document['given_up'])}",
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


def _document(
    contents: "Contents", node: str, dead: "Mapping[str, tuple[SessionRecord, str]]"
) -> dict[str, object]:
    sessions = [
        {"id": row.id, "worker": row.worker, "reason": reason} for row, reason in dead.values()
    ]
    return {
        "node": node,
        "sessions": sessions,
        "vms": [record.key for record in dead_sessions.claimed(contents, dead)],
    }


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
    site: "Site",
    contents: "Contents",
    node: str,
    dead: "Mapping[str, tuple[SessionRecord, str]]",
    *,
    as_json: bool,
) -> None:
    from shared.state.rules import expiry

    freed = [record.key for record in dead_sessions.claimed(contents, dead)]
    given_up = _to_give_up(site, contents, node)
    after = expiry.expire(contents, dead, "", "")
    lately = dead_host_work.looked_seconds(site, contents, node)
    if lately is None:
        after = dead_host_work.without_power(after, node, here=node == site.node)
    finished = {
        record.key: dead_host_work.word(record)
        for record in dead_host_work.concerned(after, node, freed)
        if record.claim is None and dead_host_work.word(record)
    }
    left = dead_host_work.left(after, node)
    answer(
        {
            **_document(contents, node, dead),
            "given_up": given_up,
            "dry_run": True,
            "finished": finished,
            "left": left,
        },
        *(f"would end session {row.id} ({row.worker}): {reason}" for row, reason in dead.values()),
        *(
            f"would free {record.key} ({record.claim.purpose})"
            for record in dead_sessions.claimed(contents, dead)
            if record.claim
        ),
        *(f"would finish the {what} of {key}" for key, what in finished.items()),
        *(f"{each['vm']}: {each['text']}" for each in left),
        f"would recover {node}: {len(dead)} sessions{_given_up(given_up)}",
        as_json=as_json,
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
