"""`vmbackup-admin activate`."""

import click

from coordinator import moving
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.host.errors import ExitCode


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
def command(invocation: Invocation, *, vm: str, as_json: bool, dry_run: bool) -> ExitCode:
    """Take an archived VM back into the backups: its copies move back from the archive directory.

    It becomes CLEAN if it was not used since its last copy, BACKUP_NECESSARY if it was (or if that
    cannot be told, for instance because it is on another host), NEW if it has no copy. Starts no
    backup itself. Interrupted, it is finished by the same command or by the next database worker.
    """
    return moving.run(invocation, "activate", vm, as_json=as_json, dry_run=dry_run)
