"""`vmbackup-admin restore`."""

from pathlib import Path

import click

from coordinator.options import copy_option
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.completion import VM
from shared.host.errors import ExitCode, UsageError
from shared.host.printable import quoted


@documented(
    example="""
        vmbackup-admin restore web01
        vmbackup-admin restore web01 --copy previous --as web01-yesterday --new-macs
        vmbackup-admin restore web01 --copy 20261122T203800Z-17 --to /srv/vms --dry-run
        vmbackup-admin restore web01 --disk 1 --to /srv/disks/web01.vdi
        vmbackup-admin restore --into web01 --copy previous
        vmbackup-admin restore --into web01 --finish
        vmbackup-admin restore --into web01 --undo
    """,
    codes=[
        ExitCode.NO_DATABASE,
        ExitCode.LOCKED,
        ExitCode.LOCK_LOST,
        ExitCode.NAS,
        ExitCode.VBOXMANAGE,
        ExitCode.STATE_REFUSED,
    ],
)
@click.argument("vm", type=VM)
@copy_option
@click.option("--as", "name", metavar="NAME", help="The name of the new VM, if not the original's.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR|FILE",
    help="Make the VM's folder in DIR, not where VirtualBox would. With --disk: the new FILE.",
)
@click.option(
    "--disk",
    type=click.IntRange(min=1),
    metavar="N",
    help="Write only the disk N (from 1) of the copy into FILE: an image if that ends in .vdi, "
    "else byte by byte.",
)
@click.option(
    "--new-macs",
    is_flag=True,
    help="Give the new VM network addresses of its own: for a second VM beside the original.",
)
@click.option(
    "--with-host-access",
    is_flag=True,
    help="Put back also what lets the VM write to this host or listen there (shared folders, …).",
)
@click.option(
    "--into",
    is_flag=True,
    help="Take VM itself back to the copy, in place: its disks become those of the copy. It must "
    "be off, on this host, and without snapshots.",
)
@click.option(
    "--discard-present-state",
    "discard",
    is_flag=True,
    help="With --into: also if VM has changed since its newest good copy, so that what it is now "
    "is in no copy; with --undo: also if it was used since it was taken back.",
)
@click.option(
    "--finish",
    is_flag=True,
    help="With --into: remove the disks that VM had before, which are kept until then.",
)
@click.option(
    "--undo",
    is_flag=True,
    help="With --into: give VM the disks again that it had before, which are kept until --finish.",
)
@json_option
@dry_run_option
@pass_invocation
def command(  # noqa: PLR0913 - options of the command line
    invocation: Invocation,
    *,
    vm: str,
    which: str,
    name: str | None,
    folder: Path | None,
    disk: int | None,
    new_macs: bool,
    with_host_access: bool,
    into: bool,
    discard: bool,
    finish: bool,
    undo: bool,
    as_json: bool,
    dry_run: bool,
) -> ExitCode:
    """Make a VM of a copy, on this host; run it as the user who owns the VMs.

    Works for VMs of any host, also of one that is gone, for archived ones, for copies of which no
    record tells, and without a database. VM is a name, a UUID, or a directory with copies. A NAS
    that is mounted read-only will do; where it can be written, it notes it in the log. The copy is
    read once, in full, and compared with its digests before the VM is registered. Nothing is ever
    overwritten: refused if this host has a VM or folder of that name. Interrupted or failed, it
    leaves nothing behind. What VirtualBox leaves out of an import is put back from the settings
    kept beside the copy; what lets a VM write to this host or listen there is taken away and
    listed, unless --with-host-access is given. The new VM has a UUID of its own, and to the backups
    it is another VM (docs/restore.md).

    With --into no VM is made: VM itself becomes what it was at the copy, in its disks alone. Its
    settings, firmware variables and TPM stay as they are. New disks are made beside the old ones
    and compared; all of them are put in place together, or none. The old ones are kept until
    --finish; until then --undo puts them back, in the same way.
    """
    from coordinator.commands import (
        restore_beside,
        restore_into,
        restore_into_end,
        restore_into_undo,
    )

    if into:
        restore_into.refuse_others(
            making=bool(name or folder or disk or new_macs or with_host_access),
            finish=finish,
            undo=undo,
            which=which,
            discard=discard,
        )
        if finish:
            return restore_into_end.finish(invocation, vm, as_json=as_json, dry_run=dry_run)
        if undo:
            return restore_into_undo.undo(
                invocation, vm, discard=discard, as_json=as_json, dry_run=dry_run
            )
        return restore_into.take_back(
            invocation, vm, which, discard=discard, as_json=as_json, dry_run=dry_run
        )
    if discard or finish or undo:
        given = "--finish" if finish else "--undo" if undo else "--discard-present-state"
        raise UsageError(
            f"{given} goes with --into",
            hint=f"vmbackup-admin restore --into {given} {quoted(vm)}",
        )
    wanted = restore_beside.NewVm(
        vm, name, folder, new_macs=new_macs, with_host_access=with_host_access
    )
    return restore_beside.restore(invocation, wanted, which, disk, as_json=as_json, dry_run=dry_run)
