"""`vmbackup-admin pin`."""

import click

from coordinator import pinning
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.host.errors import ExitCode


@documented(
    example="""
        vmbackup-admin pin web01 20261122T203800Z-17
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.LOCK_LOST, ExitCode.NAS],
)
@click.argument("vm")
@click.argument("stamp")
@json_option
@dry_run_option
@pass_invocation
def command(invocation: Invocation, *, vm: str, stamp: str, as_json: bool, dry_run: bool) -> None:
    """Keep the copy STAMP of VM whatever the retention rules say, until it is unpinned.

    For the copy before a risky change, or one that somebody may ask for. It counts for no rule: the
    rules keep as many others as without it. The pin is written into the copy's .json and goes with
    it into the archive and back. Refused while the VM is being backed up.
    """
    pinning.run(invocation, vm, stamp, pinned=True, as_json=as_json, dry_run=dry_run)
