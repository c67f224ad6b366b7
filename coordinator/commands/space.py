"""`vmbackup-admin space`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from coordinator import database_reading, space_words, text
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.completion import VM
from shared.host.errors import ConfigurationError, ExitCode, UsageError, VmBackupError
from shared.output import print_json, say, warn
from shared.state.rules import vm_records

if TYPE_CHECKING:
    from shared.copies.retention import Rules
    from shared.reports.space_growth import Cost, Growth, VmSpace, WatchedSpace
    from shared.site import Site
    from shared.state.records import VmRecord

_RULES = ("last", "daily", "weekly", "monthly", "yearly")


@documented(
    example="""
        vmbackup-admin space
        vmbackup-admin space --if-keep-daily 14
        vmbackup-admin space web01 --if-keep-monthly 12 --if-keep-daily 0
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.argument("vms", type=VM, nargs=-1, metavar="[VM]...")
@click.option(
    "--if-keep-last", type=click.IntRange(1, 1000), help="What that keep_last would cost."
)
@click.option("--if-keep-daily", type=click.IntRange(0, 1000), help="The same for keep_daily.")
@click.option("--if-keep-weekly", type=click.IntRange(0, 1000), help="The same for keep_weekly.")
@click.option("--if-keep-monthly", type=click.IntRange(0, 1000), help="The same for keep_monthly.")
@click.option("--if-keep-yearly", type=click.IntRange(0, 1000), help="The same for keep_yearly.")
@json_option
@pass_invocation
def command(
    invocation: Invocation, /, *, vms: tuple[str, ...], as_json: bool, **wanted: int | None
) -> None:
    """What the copies take on the NAS, how that grows, and when the NAS is full.

    What copies take that share blocks is said exactly where the file system of the NAS tells it (a
    local XFS or btrfs), else between which bounds it lies. The forecast follows from what the
    `database` worker of this host notes once a day. Takes no lock and writes nothing on the NAS.
    """
    changes = {
        f"keep_{rule}": number
        for rule in _RULES
        if (number := wanted[f"if_keep_{rule}"]) is not None
    }
    site = invocation.site(reading=True)
    found = database_reading.read(site)
    contents = found.snapshot.contents
    keys = {vm_records.meant(contents, vm).key for vm in vms}
    records = [record for key, record in contents.vms.items() if not keys or key in keys]
    spaces, problems = _taken(site, records)
    growth, seen = _growth(site)
    costs = _costs(site, records, spaces, changes) if changes else {}
    warnings = [*found.warnings, *problems]
    for problem in warnings:
        warn(problem)
    if as_json:
        document = space_words.document(site, spaces, growth, seen, costs)
        print_json({**document, "warnings": warnings})
        return
    if not spaces:
        say("There are no copies yet.")
    else:
        said = ", ".join(f"{rule} = {number}" for rule, number in changes.items())
        space_words.print_vms(site, spaces, costs, said)
    more = sum(cost.size for cost in costs.values())
    text.print_lines(space_words.forecast(site, growth, seen, more))


def _taken(site: "Site", records: "Sequence[VmRecord]") -> "tuple[list[VmSpace], list[str]]":
    """What each VM's copies take; VMs without any are left out. What could not be looked at."""
    from shared.reports import space_taken

    found, problems = [], []
    for number, record in enumerate(records, start=1):
        text.progress(f"looking at the copies of VM {number} of {len(records)} …")
        try:
            space_growth = space_taken.of_vm(site, record)
        except VmBackupError as error:
            problems.append(f"{record.key} is not counted: {error.message}")
            continue
        if space_growth.copies or space_growth.other:
            found.append(space_growth)
    text.progress("")
    return sorted(found, key=lambda vm: -vm.most), problems


def _growth(site: "Site") -> "tuple[Growth | None, WatchedSpace]":
    """How the NAS fills, and the looks that tell."""
    from shared.reports import space_growth, space_history

    try:
        samples = space_history.read(site)
    except ConfigurationError:  # another user than that of the workers
        samples = []
    seen = space_growth.watched(samples, site.clock.now())
    return space_growth.growth(seen.looks), seen


def _costs(
    site: "Site",
    records: "Sequence[VmRecord]",
    spaces: "Sequence[VmSpace]",
    changes: Mapping[str, int],
) -> "dict[str, Cost]":
    """What other rules would cost, by VM. Raises `UsageError` if they are none."""
    from shared.reports import space_growth
    from shared.tasks.pruning import rules_of

    rules: dict[str, Rules] = {
        record.key: rules_of(site.policy(record)) for record in records if not record.left_out
    }
    try:
        return {
            vm.vm: cost
            for vm in spaces
            if vm.vm in rules
            and (cost := space_growth.cost(vm, rules[vm.vm], replace(rules[vm.vm], **changes)))
        }
    except ValueError as error:
        raise UsageError(str(error)) from None
