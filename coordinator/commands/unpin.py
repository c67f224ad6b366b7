"""`vmbackup-admin unpin`."""

import click

from coordinator import pinning
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.host.errors import ExitCode


@documented(
    example="""
        vmbackup-admin unpin web01 20261122T203800Z-17
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.LOCK_LOST, ExitCode.NAS],
)
@click.argument("vm")
@click.argument("stamp")
@json_option
@dry_run_option
@pass_invocation
def command(invocation: Invocation, *, vm: str, stamp: str, as_json: bool, dry_run: bool) -> None:
    """Give the copy STAMP of VM back to the retention rules.

    Nothing is removed now: the next backup of the VM, or `vmbackup-admin prune`, applies the rules.
    """
    pinning.run(invocation, vm, stamp, pinned=False, as_json=as_json, dry_run=dry_run)
