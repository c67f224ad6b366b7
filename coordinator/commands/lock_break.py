"""`vmbackup-lock break`."""

import secrets
from typing import TYPE_CHECKING

import click

from coordinator import hold_break, liveness, locks_held
from coordinator.commands.lock_list import doing, names_in
from coordinator.commands.lock_show import find
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.completion import LOCK
from shared.host.errors import ExitCode, LockedError
from shared.output import answer

if TYPE_CHECKING:
    from coordinator.locks_held import Lock
    from shared.site import Site


@documented(
    example="""
        vmbackup-lock break web01
        vmbackup-lock break host-a.4711.9f3c2b10 --force
        vmbackup-lock break database
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.NAS],
)
@click.argument("name", type=LOCK)
@click.option("--force", is_flag=True, help="Break it although its holder lives.")
@json_option
@dry_run_option
@pass_invocation
def command(
    invocation: Invocation, *, name: str, force: bool, as_json: bool, dry_run: bool
) -> None:
    """Free one lock. NAME is a VM, a session or a hold as `list` shows it, or `database`.

    A holder that lives is not hurt without --force: it is watched for three heartbeats first, and
    what would happen to it is said. Breaking a lock wrongly never costs a copy: the holder is
    refused at its next step, and its VM is backed up again. With --force it also removes the row of
    a session that does not fit, which no worker touches, and frees what that session held.

    A hold, by which a copy stays because a VM runs from it, ends only with --force: what that guest
    has written is worthless then. A VM that is not locked is named for the hold on its copy.
    """
    site = invocation.site(may_give_up_reserve=not dry_run)
    contents = site.database.head().contents
    if contents.unusable_row("sessions", name):
        _remove_row(site, name, force=force, dry_run=dry_run, as_json=as_json)
        return
    locks = locks_held.gather(site, contents)
    held = [] if name in (lock.name for lock in locks) else hold_break.find(site, contents, name)
    if held:
        hold_break.end(site, name, held, force=force, as_json=as_json, dry_run=dry_run)
        return
    lock = find(locks, contents, name)
    if lock is None:
        answer(
            {"name": name, "freed": False, "dry_run": dry_run},
            f"{name} is not locked",
            as_json=as_json,
        )
        return
    if not force:
        _require_dead(site, lock)
    if dry_run:
        planned = {
            "name": name,
            "freed": False,
            "dry_run": True,
            "kind": lock.kind,
            "consequence": _harm(lock),
        }
        answer(planned, f"would free {name}: {_harm(lock)}", as_json=as_json)
        return
    _free(site, lock, force=force)
    answer(
        {"name": name, "freed": True, "dry_run": False, "kind": lock.kind},
        f"freed {name}",
        as_json=as_json,
    )


def _free(site: "Site", lock: "Lock", *, force: bool) -> None:
    if lock.kind == "database":
        _break_lease(site, force=force)
    elif lock.kind == "claim" and force:
        _break_claim(site, lock)
    else:
        _expire(site, lock)


def _remove_row(site: "Site", name: str, *, force: bool, dry_run: bool, as_json: bool) -> None:
    """Removes the row of a session that this program cannot read, and frees what it held."""
    from shared.host.clock import timestamp
    from shared.state.rules import expiry

    if not (force or dry_run):
        raise LockedError(
            f"the row of the session {name} does not fit, so whether it lives cannot be told",
            hint=(
                "if a newer program wrote it, update vmbackup on this host; else --force removes "
                "the row"
            ),
        )
    document = {"name": name, "freed": not dry_run, "dry_run": dry_run, "kind": "session"}
    if dry_run:
        answer(document, f"would remove the row of {name}, which does not fit", as_json=as_json)
        return
    when = timestamp(site.clock.now())
    reason = f"the row of its session was removed by hand on {site.node}"
    site.database.commit_once(
        lambda contents: expiry.remove_row(contents, name, reason, when),
        f"remove the row of {name}",
        "break",
    )
    answer(document, f"removed the row of {name}, which did not fit", as_json=as_json)


def _require_dead(site: "Site", lock: "Lock") -> None:
    """Raises `LockedError` if the holder lives.

    The lease on the database is judged by `recover_lease`.
    """
    if lock.state == "dead" or lock.kind == "database":
        return
    contents = site.database.head().contents
    row = contents.sessions.get(lock.session or "")
    if row is None:
        raise LockedError(
            f"{lock.name} is held by {lock.session}, which may live: {lock.why}",
            hint=f"with --force: {_harm(lock)}",
        )
    from shared.state.sessions.deaths import three_beats

    seconds = three_beats(site.database.version.lease_seconds)
    if row.id not in liveness.watch(site, [row], seconds).silent:
        raise LockedError(
            (
                f"{lock.name} is held by {lock.session} ({lock.worker} on {lock.node}, process "
                f"{lock.pid}), which is alive: {doing(lock, names_in(contents))}"
            ),
            hint=f"wait for it. With --force: {_harm(lock)}",
        )


def _harm(lock: "Lock") -> str:
    if lock.kind == "database":
        return "a transaction in progress is repeated; nothing is lost"
    what = (
        f"its work on {lock.vm} is thrown away and done again"
        if lock.vm
        else "its work is done again"
    )
    return f"{lock.session} on {lock.node} stops at its next step; {what}"


def _break_lease(site: "Site", *, force: bool) -> None:
    from shared.state.sessions.recovery import recover_lease
    from shared.state.store.lease import break_lease
    from shared.state.store.operations import ReadLease

    files = site.database.files
    if not force and recover_lease(site.database):
        return
    found = files.perform(ReadLease())
    if found is None:
        return
    if not force:
        raise LockedError(
            "the database is held by somebody who is alive",
            hint="it is held for milliseconds: try again, or use --force",
        )
    files.run(break_lease(found[0], f"forced.{secrets.token_hex(4)}"))


def _break_claim(site: "Site", lock: "Lock") -> None:
    from shared.host.clock import timestamp
    from shared.state.rules import claims

    record = site.database.head().contents.vms.get(lock.name)
    if record is None or record.claim is None or record.claim.session != lock.session:
        return  # it has ended meanwhile
    number, when = record.claim.number, timestamp(site.clock.now())
    reason = f"its lock was broken by hand on {site.node}"
    site.database.commit_once(
        lambda contents: claims.break_claim(contents, lock.name, number, reason, when),
        f"break {lock.name}",
        "break",
    )


def _expire(site: "Site", lock: "Lock") -> None:
    from shared.state.rules import expiry
    from shared.state.sessions.deaths import Dead
    from shared.state.sessions.recovery import expire, free_ownerless

    reason = f"its lock was broken by hand on {site.node}"
    contents = site.database.head().contents
    row = contents.sessions.get(lock.session or "")
    if row is not None and row.state == "live":
        expire(site.database, [Dead(row, reason, by_hand=True)], "break")
    elif lock.session in expiry.ownerless(contents):
        free_ownerless(site.database, reason, "break")
