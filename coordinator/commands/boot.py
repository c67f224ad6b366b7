"""`vmbackup-admin boot`."""

import contextlib
from pathlib import Path

import click

from coordinator.options import copy_option
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.completion import BOOTED, VM
from shared.host.errors import ExitCode, UsageError


@documented(
    example="""
        vmbackup-admin boot web01
        vmbackup-admin boot web01 --copy previous --as web01-yesterday --isolated
        vmbackup-admin boot --finish web01
        vmbackup-admin boot --discard web01-yesterday --yes
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.NAS, ExitCode.VBOXMANAGE],
)
@click.argument("vm", type=VM, required=False)
@copy_option
@click.option("--as", "name", metavar="NAME", help="The name of the new VM, if not the original's.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Make the VM's folder in DIR, not where VirtualBox would.",
)
@click.option(
    "--network",
    "plugged",
    is_flag=True,
    help="Plug its network cables in also if the original runs, is saved, is worked on by a "
    "backup, or belongs to another host.",
)
@click.option("--isolated", is_flag=True, help="Do not plug them in, whatever the original does.")
@click.option(
    "--finish",
    type=BOOTED,
    is_flag=False,
    flag_value="",
    metavar="NAME",
    help="Make an ordinary VM of NAME; waits for that.",
)
@click.option(
    "--discard",
    type=BOOTED,
    is_flag=False,
    flag_value="",
    metavar="NAME",
    help="Remove NAME, with all that its guest wrote.",
)
@click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal.")
@json_option
@dry_run_option
@pass_invocation
def command(  # noqa: PLR0913 - options of the command line
    invocation: Invocation,
    *,
    vm: str | None,
    which: str,
    name: str | None,
    folder: Path | None,
    plugged: bool,
    isolated: bool,
    finish: str | None,
    discard: str | None,
    yes: bool,
    as_json: bool,
    dry_run: bool,
) -> ExitCode:
    """Run a VM from a copy, on this host, within seconds; its disks are filled meanwhile.

    The new VM has a UUID and a folder of its own, and runs when this returns. A server in the
    background reads what the guest needs from the copy, which stays where it is meanwhile, and
    fills the disks. When they are filled and the VM is off, it becomes an ordinary VM by itself;
    --finish waits for that, and goes on after a crash. Until then VirtualBox refuses to start the
    VM while its disks are not served, and no worker backs it up. Given again, it serves the disks
    of a VM that was begun, from the same copy, and starts it. Run it as the user who owns the VMs.
    """
    _require_one(vm, finish, discard)
    network = _network(plugged=plugged, isolated=isolated)
    if vm is None and (which != "latest" or name or folder or network is not None):
        raise UsageError(
            "--finish and --discard make no VM: --copy, --as, --to, --network and --isolated are "
            "for one that is made"
        )
    from coordinator.booting import machines, removing
    from coordinator.commands import boot_names
    from coordinator.commands.boot_work import BootCommand

    site = invocation.site(reading=dry_run)
    work = BootCommand(site, invocation.config, as_json=as_json, dry_run=dry_run)
    machines.require_user(site)
    if finish is not None:
        if (done := boot_names.done(site, finish)) is not None:
            return work.finished_before(*done)
        begun = boot_names.begun(site, finish)
        if not dry_run and removing.after_a_crash(site, begun) is None:
            raise UsageError(f"{finish!r} was never started, and is removed")
        return work.finish(begun)
    if discard is not None:
        return work.discard(boot_names.begun(site, discard), yes=yes)
    record = boot_names.original(site, str(vm))
    wanted = name or record.name
    with contextlib.ExitStack() as looking:
        note = boot_names.noted(site, wanted, looking, dry_run=dry_run)
        if note is None:
            return work.begin(record, which, wanted, folder, network=network, noted=looking.close)
    if note.vm == record.uuid and which in ("latest", note.stamp):
        return work.go_on(note, network=network, folder=folder)
    raise UsageError(
        f"{note.name!r} runs from the copy {note.stamp} of {note.key} already",
        hint="give the new one another name: --as NAME",
    )


def _require_one(vm: str | None, finish: str | None, discard: str | None) -> None:
    """Raises `UsageError` unless it is clear what is to be done, and to which VM."""
    if finish is not None and discard is not None:
        raise UsageError(
            "--finish and --discard exclude each other: one makes an ordinary VM, the other "
            "throws it away",
            hint="give one of them",
        )
    if "" in (finish, discard):
        way = "--finish" if finish is not None else "--discard"
        raise UsageError(
            f"{way} needs the name of a VM that runs from a copy",
            hint=f"vmbackup-admin boot {way} NAME; `vmbackup-admin status` shows which there are",
        )
    if sum(each is not None for each in (vm, finish, discard)) != 1:
        raise UsageError(
            "one of VM, --finish NAME and --discard NAME is needed, and one only",
            hint="vmbackup-admin boot VM",
        )


def _network(*, plugged: bool, isolated: bool) -> bool | None:
    """Whether its network is wanted; None: unless it could meet its original."""
    if plugged and isolated:
        raise UsageError("--network and --isolated exclude each other")
    return True if plugged else False if isolated else None
