"""`vmbackup-admin remove`."""

from typing import TYPE_CHECKING

import click

from coordinator import confirming, dead_sessions, text, vm_argument
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.completion import STAMP, VM
from shared.host.errors import ExitCode
from shared.output import answer, warn
from shared.state.rules import vm_records

if TYPE_CHECKING:
    from shared.copies.catalogue import Copy


@documented(
    example="""
        vmbackup-admin remove web01 20261122T203800Z-17
        vmbackup-admin remove web01 20261122T203800Z-17 --dry-run
        vmbackup-admin remove web01 20261122T203800Z-17 --yes --json
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
@click.argument("stamp", type=STAMP)
@click.option("--last", is_flag=True, help="Also if it is the last good copy of VM.")
@click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal.")
@json_option
@dry_run_option
@pass_invocation
def command(
    invocation: Invocation,
    *,
    vm: str,
    stamp: str,
    last: bool,
    yes: bool,
    as_json: bool,
    dry_run: bool,
) -> ExitCode:
    """Remove the copy STAMP of VM with all its files, archived or not. It cannot be brought back.

    For copies that stay for ever otherwise: damaged ones, and those of which it is not known which
    is newer. Refused for a pinned copy, for a copy of another VM, and for the last good one (unless
    --last). A VM that loses the copy which made it CLEAN becomes BACKUP_NECESSARY. Interrupted, it
    is finished by the same command.
    """
    from shared.tasks import finding_unlisted, pruning

    site = invocation.site(reading=dry_run, may_give_up_reserve=not dry_run)
    if not dry_run:
        dead_sessions.free_readers(site)
    contents = site.database.head().contents
    record = vm_argument.choose(site, contents, vm)
    copy, _ = pruning.removable(site, record, stamp, last=last)
    document = {"vm": vm, "stamp": stamp, "good": copy.good, "size": copy.size}
    vm_records.require_free(record)
    if dry_run:
        answer(
            {**document, "status": str(record.status), "dry_run": True},
            f"would remove {_described(copy)} from {copy.directory}",
            as_json=as_json,
        )
        return ExitCode.DONE
    question = f"Remove {_described(copy)} of {vm} for good?"
    if not yes and not confirming.confirmed(question, yes="removes the copy without being asked"):
        warn("nothing was removed")
        return ExitCode.FAILURE
    with site.database.session("remove") as session:
        finding_unlisted.take_in(session, record)
        done = pruning.remove(site, session, record.key, stamp, last=last)
    becomes = f", which is {done.status}" if finding_unlisted.is_listed(record) else ""
    answer(
        {**document, "archived": done.archived, "status": str(done.status), "dry_run": False},
        f"removed {stamp} of {vm}{becomes}",
        as_json=as_json,
    )
    return ExitCode.DONE


def _described(copy: "Copy") -> str:
    made = f", made of {copy.sidecar.vm} on {copy.sidecar.node}" if copy.sidecar else ""
    return f"{copy.stamp} ({text.size(copy.size)}, {copy.problem or 'good'}{made})"
