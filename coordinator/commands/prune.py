"""`vmbackup-admin prune`."""

from typing import TYPE_CHECKING, Any

import click

from coordinator import dead_sessions, text, vm_argument
from coordinator.vm_rows import order_unknown
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.completion import VM
from shared.host.errors import (
    ExitCode,
    IllegalMoveError,
    LockedError,
    LockLostError,
    NasError,
    VmBackupError,
)
from shared.host.printable import quoted
from shared.output import print_json, say, warn
from shared.state.rules import vm_records
from shared.state.states import State

if TYPE_CHECKING:
    from shared.site import Site
    from shared.state.contents import Contents
    from shared.state.records import VmRecord
    from shared.tasks.pruning import Pruned


@documented(
    example="""
        vmbackup-admin prune --dry-run
        vmbackup-admin prune web01
        vmbackup-admin prune --dry-run --json | jq '.vms[].copies[] | select(.keep | not) | .stamp'
    """,
    codes=[
        ExitCode.SOME_FAILED,
        ExitCode.NO_DATABASE,
        ExitCode.LOCKED,
        ExitCode.LOCK_LOST,
        ExitCode.NAS,
        ExitCode.STATE_REFUSED,
    ],
    special={
        ExitCode.SOME_FAILED: "the rules could not be applied to some VMs; the warnings say why"
    },
)
@click.argument("vm", type=VM, required=False)
@json_option
@dry_run_option
@pass_invocation
def command(invocation: Invocation, *, vm: str | None, as_json: bool, dry_run: bool) -> ExitCode:
    """Apply the retention rules to the copies of VM, or of all of this host; show what keeps each.

    Backups do the same after each new copy: this is for rules that were changed, and with --dry-run
    for trying them out. The newest good copy stays in any case; pinned, damaged and archived copies
    stay, too. The rules are those of this host's configuration.
    """
    site = invocation.site(reading=dry_run, may_give_up_reserve=not dry_run)
    if not dry_run:
        dead_sessions.free_readers(site)
    contents = site.database.head().contents
    meant = _meant(site, contents, vm) if vm is not None else None
    keys = [meant.key] if meant is not None else _keys(contents, site.node)
    if meant is not None and meant.node != site.node:
        warn(
            f"{meant.key} belongs to the host {meant.node}: what counts here are the rules of this "
            f"host"
        )
    pruned, failed = _previews(site, keys) if dry_run else _prune(site, keys, alone=vm is not None)
    if as_json:
        print_json(
            {
                "schema": 1,
                "dry_run": dry_run,
                "vms": [_document(one) for one in pruned],
                "failed": list(failed),
            }
        )
    else:
        _print(pruned, dry_run=dry_run, everything=len(pruned) == len(keys))
    if any(isinstance(error, NasError) for error in failed.values()):
        return ExitCode.NAS
    return ExitCode.SOME_FAILED if failed else ExitCode.DONE


def _meant(site: "Site", contents: "Contents", vm: str) -> "VmRecord":
    """Raises `IllegalMoveError` for copies of which no record tells: no rule is for them."""
    from shared.tasks import finding_unlisted

    record = vm_argument.choose(site, contents, vm)
    if finding_unlisted.is_listed(record):
        return record
    key = quoted(record.key)
    raise IllegalMoveError(
        f"no record tells of {record.key}: no rule of retention is for its copies, all stay",
        hint=f"`vmbackup-admin copies {key}` lists them, `vmbackup-admin remove {key} STAMP` "
        "removes one. If its host has the VM, its next vmfind takes them back, and the rules count",
    )


def _keys(contents: "Contents", node: str) -> list[str]:
    return sorted(
        record.key
        for record in contents.vms.values()
        if record.node == node and record.status != State.ARCHIVED
    )


def _previews(site: "Site", keys: list[str]) -> tuple[list["Pruned"], dict[str, VmBackupError]]:
    from shared.tasks.pruning import Pruned, decide

    contents = site.database.head().contents
    return [Pruned(key, decide(site, vm_records.find(contents, key)), ()) for key in keys], {}


def _prune(
    site: "Site", keys: list[str], *, alone: bool
) -> tuple[list["Pruned"], dict[str, VmBackupError]]:
    """Prunes one VM after the other.

    One that somebody works on is passed over, since the end of its backup prunes it anyway.

    Answers those that were pruned, and of those that could not be why.
    """
    from shared.tasks import pruning

    done: list[Pruned] = []
    failed: dict[str, VmBackupError] = {}
    with site.database.session("prune") as session:
        for key in keys:
            try:
                done.append(pruning.prune(site, session, key))
            except LockLostError:
                raise
            except VmBackupError as error:
                if alone:
                    raise
                warn(
                    f"{key}: {error.message}"
                    + (f" ({error.hint})" if isinstance(error, NasError) else "")
                )
                if not isinstance(error, LockedError):
                    failed[key] = error
    return done, failed


def _unknown(one: "Pruned") -> list[str]:
    """The stamps of copies of which it is disputed which is newer, oldest first."""
    from shared.copies import chronology

    return list(
        chronology.unknown([decision.copy for decision in one.decisions if decision.copy.good])
    )


def _document(one: "Pruned") -> dict[str, Any]:
    return {
        "name": one.key,
        "order_unknown": _unknown(one),
        "copies": [
            {
                "stamp": decision.copy.stamp,
                "size": decision.copy.size,
                "good": decision.copy.good,
                "keep": decision.keep,
                "reasons": list(decision.reasons),
                "removed": decision.copy.stamp in one.removed,
            }
            for decision in one.decisions
        ],
    }


def _print(pruned: list["Pruned"], *, dry_run: bool, everything: bool) -> None:
    rows = [
        [
            one.key,
            decision.copy.stamp,
            text.size(decision.copy.size),
            ", ".join(decision.reasons)
            or (
                "REMOVED"
                if decision.copy.stamp in one.removed
                else "no rule: would be removed"
                if dry_run
                else "no rule: stayed this time"
            ),
        ]
        for one in pruned
        for decision in one.decisions
    ]
    if rows:
        text.print_table(["VM", "COPY", "SIZE", "KEPT BY"], rows)
    elif everything:  # otherwise nobody has looked, and the warnings say why
        say("There are no copies.")
    for one in pruned:
        if unknown := _unknown(one):
            warn(f"{one.key}: {order_unknown(one.key, len(unknown))}")
