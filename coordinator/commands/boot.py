"""`vmbackup-admin boot`."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coordinator import vm_argument
from coordinator.options import copy_option
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.completion import BOOTED, VM
from shared.host.errors import ExitCode, UnknownVmError, UsageError
from shared.host.printable import quoted
from shared.tasks import boot_note

if TYPE_CHECKING:
    from shared.site import Site
    from shared.tasks.boot_note import BootNote


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
    "--finish", type=BOOTED, metavar="NAME", help="Make an ordinary VM of NAME; waits for that."
)
@click.option(
    "--discard", type=BOOTED, metavar="NAME", help="Remove NAME, with all that its guest wrote."
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
    if sum(each is not None for each in (vm, finish, discard)) != 1:
        raise UsageError(
            "one of VM, --finish NAME and --discard NAME is needed, and one only",
            hint="vmbackup-admin boot VM",
        )
    network = _network(plugged=plugged, isolated=isolated)
    if vm is None and (which != "latest" or name or folder or network is not None):
        raise UsageError(
            "--finish and --discard make no VM: --copy, --as, --to, --network and --isolated are "
            "for one that is made"
        )
    from coordinator.booting import machines, removing
    from coordinator.commands.boot_work import BootCommand

    site = invocation.site(reading=dry_run)
    work = BootCommand(site, invocation.config, as_json=as_json, dry_run=dry_run)
    machines.require_user(site)
    if finish is not None:
        begun = _begun(site, finish)
        if not dry_run and removing.after_a_crash(site, begun) is None:
            raise UsageError(f"{finish!r} was never started, and is removed")
        return work.finish(begun)
    if discard is not None:
        return work.discard(_begun(site, discard), yes=yes)
    record = vm_argument.choose(site, site.database.head().contents, str(vm))
    wanted = name or record.name
    with contextlib.ExitStack() as looking:
        note = _noted(site, wanted, looking, dry_run=dry_run)
        if note is None:
            return work.begin(record, which, wanted, folder, network=network, noted=looking.close)
    if note.vm == record.uuid and which in ("latest", note.stamp):
        return work.go_on(note, network=network, folder=folder)
    raise UsageError(
        f"{note.name!r} runs from the copy {note.stamp} of {note.key} already",
        hint="give the new one another name: --as NAME",
    )


def _network(*, plugged: bool, isolated: bool) -> bool | None:
    """Whether its network is wanted; None: unless it could meet its original."""
    if plugged and isolated:
        raise UsageError("--network and --isolated exclude each other")
    return True if plugged else False if isolated else None


def _noted(
    site: "Site", name: str, looking: contextlib.ExitStack, *, dry_run: bool
) -> "BootNote | None":
    """What runs under that name; nobody else begins anything until `looking` is closed."""
    from coordinator.booting import locks, removing

    state = site.configuration.host.state_directory
    if not dry_run:
        looking.enter_context(locks.beginning(state))
    note = boot_note.named(state, name)
    if note is not None:
        _require_ours(site, note, "; or give the new one another name: --as NAME")
    return note if note is None or dry_run else removing.after_a_crash(site, note)


def _begun(site: "Site", name: str) -> "BootNote":
    """What was begun under that name. Raises `UnknownVmError`."""
    state = site.configuration.host.state_directory
    note = boot_note.named(state, name)
    if note is None:
        others = ", ".join(quoted(each.name) for each in boot_note.all_of(state)) or "none"
        raise UnknownVmError(
            f"no VM {name!r} runs from a copy on this host",
            hint=f"those that do: {others}. One that was filled, and off, is an ordinary VM by now",
        )
    _require_ours(site, note)
    return note


def _require_ours(site: "Site", note: "BootNote", otherwise: str = "") -> None:
    """Raises `UsageError` if it runs from a copy in another repository, which has its hold.

    `otherwise`: what else may be done, for the hint.
    """
    from coordinator.booting import boot_hold

    same = note.repository in ("", site.database.version.repository)
    if not same and not boot_hold.is_here(site, note):
        raise UsageError(
            f"{note.name!r} runs from a copy of {note.key} in the repository {note.repository}, "
            "and not in that of this configuration",
            hint=f"give the configuration with that NAS: --config FILE{otherwise}",
        )
