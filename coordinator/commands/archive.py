"""`vmbackup-admin archive` and `vmbackup-admin activate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from coordinator import text, vm_argument
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.copies import catalogue
from shared.host.errors import ExitCode, IllegalMoveError
from shared.output import answer, print_json, say
from shared.state.rules import archive as archive_rules
from shared.state.rules import vm_records
from shared.state.states import State

if TYPE_CHECKING:
    from shared.site import Site
    from shared.state.records import VmRecord
    from shared.tasks.archiving import MoveResult, Progress

Purpose = Literal["archive", "activate"]


@documented(
    example="""
        vmbackup-admin archive old-server
        vmbackup-admin archive old-server --dry-run
    """,
    codes=[
        ExitCode.NO_DATABASE,
        ExitCode.LOCKED,
        ExitCode.LOCK_LOST,
        ExitCode.NAS,
        ExitCode.STATE_REFUSED,
    ],
)
@click.argument("vm")
@json_option
@dry_run_option
@pass_invocation
def archive(invocation: Invocation, *, vm: str, as_json: bool, dry_run: bool) -> ExitCode:
    """Set VM aside: it becomes ARCHIVED, its copies move to the archive, no more backups are made.

    For a VM that is done with, but whose copies shall stay. Starts no backup. Refused while the VM
    is being backed up. Interrupted, it is finished by the same command or by the next database
    worker; at every moment each copy is whole in one of the two places.
    """
    return _run(invocation, "archive", vm, as_json=as_json, dry_run=dry_run)


@documented(
    example="""
        vmbackup-admin activate old-server
    """,
    codes=[
        ExitCode.NO_DATABASE,
        ExitCode.LOCKED,
        ExitCode.LOCK_LOST,
        ExitCode.NAS,
        ExitCode.STATE_REFUSED,
    ],
)
@click.argument("vm")
@json_option
@dry_run_option
@pass_invocation
def activate(invocation: Invocation, *, vm: str, as_json: bool, dry_run: bool) -> ExitCode:
    """Take an archived VM back into the backups: its copies move back from the archive directory.

    It becomes CLEAN if it was not used since its last copy, BACKUP_NECESSARY if it was (or if that
    cannot be told, for instance because it is on another host), NEW if it has no copy. Starts no
    backup itself. Interrupted, it is finished by the same command or by the next database worker.
    """
    return _run(invocation, "activate", vm, as_json=as_json, dry_run=dry_run)


def _run(
    invocation: Invocation, purpose: Purpose, vm: str, *, as_json: bool, dry_run: bool
) -> ExitCode:
    """Archives or activates `vm`. Answers FAILURE if some copies had to stay where they are."""
    site = invocation.site(may_give_up_reserve=not dry_run)
    if dry_run:
        _preview(site, purpose, vm, as_json=as_json)
        return ExitCode.DONE
    from shared.tasks import archiving, unlisted

    record = vm_argument.choose(site, site.database.head().contents, vm)

    def show(done: int, total: int) -> None:
        text.progress(f"{vm}: {text.size(done)} of {text.size(total)}")

    try:
        if unlisted.is_listed(record):
            move = archiving.archive if purpose == "archive" else archiving.activate
            outcome = move(site, record.key, show)
        else:
            outcome = _unlisted(site, purpose, record, show)
    finally:
        text.progress("")
    if as_json:
        problems = [
            {"stamp": problem.stamp, "reason": problem.reason} for problem in outcome.moved.problems
        ]
        print_json(
            {
                "schema": 1,
                "vm": outcome.key,
                "status": str(outcome.status),
                "copies": list(outcome.moved.stamps),
                "left_behind": problems,
            }
        )
    else:
        say(f"{outcome.key} is {outcome.status}; copies in place: {len(outcome.moved.stamps)}")
    return ExitCode.FAILURE if outcome.moved.problems else ExitCode.DONE


def _unlisted(site: "Site", purpose: Purpose, record: "VmRecord", show: "Progress") -> "MoveResult":
    """Archives copies of which no record tells. To activate a VM it must be ARCHIVED."""
    from shared.tasks import unlisted

    if purpose == "activate":
        raise _not_recorded(record)
    return unlisted.archive(site, record, show)


def _not_recorded(record: "VmRecord") -> IllegalMoveError:
    return IllegalMoveError(
        f"no record tells of {record.key}: there is nothing to activate",
        hint="its host's next vmfind takes its copies back, if it has the VM",
    )


def _route(site: "Site", purpose: Purpose, record: "VmRecord") -> tuple[Path, Path]:
    here, there = site.directory(record), site.archive_directory(record)
    return (here, there) if purpose == "archive" else (there, here)


def _preview(site: "Site", purpose: Purpose, vm: str, *, as_json: bool) -> None:
    from shared.tasks import archiving, unlisted

    record = vm_argument.choose(site, site.database.head().contents, vm)
    vm_records.require_free(record)
    if purpose == "activate" and not unlisted.is_listed(record):
        raise _not_recorded(record)
    if purpose == "activate":
        archive_rules.require_archived(record)
    elif record.moving is None:
        archive_rules.archived(record)
    archiving.require_movable(site, record, experiment=False)
    source, target = _route(site, purpose, record) if record.directory else (None, None)
    copies = catalogue.read(source, record.uuid).copies if source else ()
    becomes = State.ARCHIVED if purpose == "archive" else "CLEAN, BACKUP_NECESSARY or NEW"
    answer(
        {
            "vm": vm,
            "status": str(record.status),
            "becomes": str(becomes),
            "copies": [copy.stamp for copy in copies],
            "dry_run": True,
        },
        f"{vm} is {record.status} and would become {becomes}",
        *(
            (f"would move {copy.stamp} ({text.size(copy.size)}) from {source} to {target}")
            for copy in copies
        ),
        as_json=as_json,
    )
