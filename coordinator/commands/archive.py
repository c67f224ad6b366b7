"""`vmbackup-admin archive`."""

import click

from coordinator import moving
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.host.errors import ExitCode


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
def command(invocation: Invocation, *, vm: str, as_json: bool, dry_run: bool) -> ExitCode:
    """Set VM aside: it becomes ARCHIVED, its copies move to the archive directory, and no more backups are made.

    For a VM that is done with, but whose copies shall stay. Starts no backup. Refused while the VM
    is being backed up. Interrupted, it is finished by the same command or by the next database
    worker; at every moment each copy is whole in one of the two places.
    """
    return moving.run(invocation, "archive", vm, as_json=as_json, dry_run=dry_run)
