"""`vmbackup-admin archive` and `vmbackup-admin activate`."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from coordinator import dead_sessions, text, vm_argument
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.completion import VM
from shared.copies import catalogue
from shared.host.errors import ExitCode, IllegalMoveError, VmBackupError
from shared.host.printable import quoted
from shared.output import answer, print_json, say, warn
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
@click.argument("vm", type=VM)
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
@click.argument("vm", type=VM)
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
    if not dry_run:
        dead_sessions.free_readers(site)
    if _is_so_already(site, purpose, vm, as_json=as_json, dry_run=dry_run):
        return ExitCode.DONE
    if dry_run:
        _preview(site, purpose, vm, as_json=as_json)
        return ExitCode.DONE
    from shared.tasks import archiving, finding_unlisted

    record = vm_argument.choose(site, site.database.head().contents, vm)

    def show(done: int, total: int) -> None:
        text.progress(f"{vm}: {text.size(done)} of {text.size(total)}")

    try:
        if finding_unlisted.is_listed(record):
            move = archiving.archive if purpose == "archive" else archiving.activate
            outcome = move(site, record.key, show)
        else:
            outcome = _unlisted(site, purpose, record, show)
    finally:
        text.progress("")
    _tell(purpose, outcome, as_json=as_json)
    return ExitCode.FAILURE if outcome.moved.problems else ExitCode.DONE


def _tell(purpose: Purpose, outcome: "MoveResult", *, as_json: bool) -> None:
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
    if purpose == "archive" and not (outcome.moved.stamps or outcome.moved.problems):
        warn(f"there is no copy of {outcome.key}, and none is made while it is {State.ARCHIVED}")


def _is_so_already(
    site: "Site", purpose: Purpose, vm: str, *, as_json: bool, dry_run: bool
) -> bool:
    """Says that there is nothing to do, if nobody works on the VM and it is what was asked for."""
    from shared.tasks import finding_unlisted

    record = vm_argument.choose(site, site.database.head().contents, vm)
    archived = record.status == State.ARCHIVED
    begun = record.claim or record.moving or record.publishing
    if begun or archived != (purpose == "archive") or not finding_unlisted.is_listed(record):
        return False
    if left := _left_behind(site, purpose, record):
        raise IllegalMoveError(
            f"{record.key} is {record.status} already, and these of its copies had to stay where "
            f"they were: {', '.join(left)}",
            hint=f"`vmbackup-admin copies {quoted(record.key)}` says what is wrong with them; when "
            f"that is mended, {'activate and archive' if archived else 'archive and activate'} it",
        )
    copies = [] if dry_run else _stamps(site, purpose, record)
    document = {"vm": record.key, "status": str(record.status), "copies": copies}
    rest = {"becomes": str(record.status), "dry_run": True} if dry_run else {"left_behind": []}
    is_so = (
        f"{record.key} is {record.status} already"
        if archived
        else (f"{record.key} is {record.status}, not {State.ARCHIVED}")
    )
    answer({**document, **rest}, f"{is_so}: there is nothing to do", as_json=as_json)
    return True


def _stamps(site: "Site", purpose: Purpose, record: "VmRecord") -> list[str]:
    """The copies that are where they belong, as far as one can look."""
    if not record.directory:
        return []
    _, target = _route(site, purpose, record)
    return [copy.stamp for copy in catalogue.read(target, record.uuid).copies]


def _left_behind(site: "Site", purpose: Purpose, record: "VmRecord") -> list[str]:
    """The copies that are still where they do not belong, as far as one can look."""
    if not record.directory:
        return []
    source, _ = _route(site, purpose, record)
    with contextlib.suppress(VmBackupError):
        found = (copy for copy in catalogue.read(source, record.uuid).copies if copy.present)
        return [copy.stamp for copy in found if copy.ours or copy.sidecar is None]
    return []


def _unlisted(site: "Site", purpose: Purpose, record: "VmRecord", show: "Progress") -> "MoveResult":
    """Archives copies of which no record tells. To activate a VM it must be ARCHIVED."""
    from shared.tasks import finding_unlisted

    if purpose == "activate":
        raise _not_recorded(record)
    return finding_unlisted.archive(site, record, show)


def _not_recorded(record: "VmRecord") -> IllegalMoveError:
    return IllegalMoveError(
        f"no record tells of {record.key}: there is nothing to activate",
        hint="its host's next vmfind takes its copies back, if it has the VM; "
        f"`vmbackup-admin restore {quoted(record.key)}` makes a new VM of them",
    )


def _route(site: "Site", purpose: Purpose, record: "VmRecord") -> tuple[Path, Path]:
    here, there = site.directory(record), site.archive_directory(record)
    return (here, there) if purpose == "archive" else (there, here)


def _preview(site: "Site", purpose: Purpose, vm: str, *, as_json: bool) -> None:
    from shared.tasks import archiving, finding_unlisted

    record = vm_argument.choose(site, site.database.head().contents, vm)
    vm_records.require_free(record)
    if purpose == "activate" and not finding_unlisted.is_listed(record):
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
