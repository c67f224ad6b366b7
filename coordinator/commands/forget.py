"""`vmbackup-admin forget`."""

from typing import Final

import click

from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.completion import VM
from shared.host.errors import ExitCode
from shared.host.printable import quoted
from shared.output import answer, warn

_STAY: Final = "its copies stay"
_NONE_KNOWN: Final = "no copy of it is known of; what there is of it stays"


@documented(
    example="""
        vmbackup-admin forget deleted-vm
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.NAS, ExitCode.STATE_REFUSED],
)
@click.argument("vm", type=VM)
@json_option
@dry_run_option
@pass_invocation
def command(invocation: Invocation, *, vm: str, as_json: bool, dry_run: bool) -> None:
    """Delete the record of VM. Its copies stay on the NAS, and are known by its UUID from then on.

    They are listed, verified, restored, pinned, archived and removed by that; if a host has the VM
    again, it goes on with them.

    For a VM that was deleted from its host and is shown as missing. A VM that its host still lists
    is found again as NEW by the next vmfind; to keep a VM out of the backups use `archive`. Refused
    while the VM is being backed up or moved.
    """
    from coordinator.restore import in_place_waiting
    from shared.state.rules import vm_records

    site = invocation.site(may_give_up_reserve=not dry_run)
    contents = site.database.head().contents
    row = contents.unusable_row("vms", vm)
    record = contents.vms.get(vm) if row else vm_records.meant(contents, vm)
    key = record.key if record else vm
    vm_records.forget(contents, key)
    place = site.stated_directory(record) if record else None
    if not dry_run:
        site.database.commit_once(
            lambda current: vm_records.forget(current, key), f"forget {key}", "forget"
        )
    document = {
        "vm": vm,
        "status": str(record.status) if record else None,
        "node": record.node if record else None,
        "directory": str(place) if place else None,
        "uuid": record.uuid if record else None,
    }
    known = f"{record.status}, host {record.node or 'unknown'}" if record else "unusable record"
    lines = [f"{'would forget' if dry_run else 'forgot'} {vm} ({known})"]
    if place and record:
        lines.append(f"{_STAY if record.last_copy else _NONE_KNOWN} in {place!s}")
    if place and record and record.last_copy:
        name = quoted(record.uuid or str(place))
        ways = f"`vmbackup-admin copies {name}`, `vmbackup-admin restore {name}`"
        lines.append(f"to get at them: {ways}, `vmbackup-admin remove {name} STAMP`")
    answer({**document, "dry_run": dry_run}, *lines, as_json=as_json)
    for waiting in in_place_waiting.found(site.configuration.host.state_directory, {}):
        if record and waiting.document["uuid"] == record.uuid:
            warn(waiting.line)
    if record and record.missing_since is None and record.node:
        warn(f"{record.node} still lists this VM: the next vmfind finds it again as NEW")
