"""`vmbackup-admin pin` and `vmbackup-admin unpin`."""

import click

from coordinator import vm_argument
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.completion import STAMP, VM
from shared.host.errors import ExitCode
from shared.output import print_json, say


@documented(
    example="""
        vmbackup-admin pin web01 20261122T203800Z-17
    """,
    codes=[
        *(ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.LOCK_LOST, ExitCode.NAS),
        ExitCode.STATE_REFUSED,
    ],
)
@click.argument("vm", type=VM)
@click.argument("stamp", type=STAMP)
@json_option
@dry_run_option
@pass_invocation
def pin(invocation: Invocation, *, vm: str, stamp: str, as_json: bool, dry_run: bool) -> None:
    """Keep the copy STAMP of VM whatever the retention rules say, until it is unpinned.

    For the copy before a risky change, or one that somebody may ask for. It counts for no rule: the
    rules keep as many others as without it. The pin is written into the copy's .json and goes with
    it into the archive and back. Refused while the VM is being backed up.
    """
    _run(invocation, vm, stamp, pinned=True, as_json=as_json, dry_run=dry_run)


@documented(
    example="""
        vmbackup-admin unpin web01 20261122T203800Z-17
    """,
    codes=[
        *(ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.LOCK_LOST, ExitCode.NAS),
        ExitCode.STATE_REFUSED,
    ],
)
@click.argument("vm", type=VM)
@click.argument("stamp", type=STAMP)
@json_option
@dry_run_option
@pass_invocation
def unpin(invocation: Invocation, *, vm: str, stamp: str, as_json: bool, dry_run: bool) -> None:
    """Give the copy STAMP of VM back to the retention rules.

    Nothing is removed now: the next backup of the VM, or `vmbackup-admin prune`, applies the rules.
    """
    _run(invocation, vm, stamp, pinned=False, as_json=as_json, dry_run=dry_run)


def _run(
    invocation: Invocation, vm: str, stamp: str, *, pinned: bool, as_json: bool, dry_run: bool
) -> None:
    """Pins or unpins a copy and says so."""
    from shared.tasks import finding_unlisted, pruning

    site = invocation.site(reading=dry_run, may_give_up_reserve=not dry_run)
    record = vm_argument.choose(site, site.database.head().contents, vm)
    changed = pruning.find(site, record, stamp).pinned != pinned
    if changed and not dry_run:
        with site.database.session("pin" if pinned else "unpin") as session:
            finding_unlisted.take_in(session, record)
            changed = pruning.pin(site, session, record.key, stamp, pinned=pinned)
    if as_json:
        print_json(
            {
                "schema": 1,
                "vm": vm,
                "stamp": stamp,
                "pinned": pinned,
                "changed": changed,
                "dry_run": dry_run,
            }
        )
        return
    word = "pinned" if pinned else "unpinned"
    state = f"would be {word}" if dry_run else f"is {word} now"
    say(
        f"{vm} {stamp} "
        f"{state if changed else f'was {word} already' if pinned else 'was not pinned'}"
    )
