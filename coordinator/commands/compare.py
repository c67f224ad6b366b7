"""`vmbackup-admin compare`."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from coordinator import text, vm_argument
from coordinator.copies_site import open_copies
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.completion import COPY, VM
from shared.host.duration import spoken
from shared.host.errors import CopyError, ExitCode
from shared.output import print_json, say, warn

if TYPE_CHECKING:
    from shared.copies.catalogue import Copy
    from shared.host.clock import Clock
    from shared.ova.copy_comparison import DiskDifference
    from shared.ova.disk_reader import CopyReader


@documented(
    example="""
        vmbackup-admin compare web01 previous latest
        vmbackup-admin compare web01 20261122T203800Z-17 20261123T203800Z-18 --json
        vmbackup-admin compare web01 previous latest --files
    """,
    codes=[ExitCode.SOME_FAILED, ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.argument("vm", type=VM)
@click.argument("before", type=COPY, metavar="STAMP")
@click.argument("after", type=COPY, metavar="STAMP")
@click.option(
    "--files",
    "files",
    is_flag=True,
    help="Which files were added, removed or changed, of the file systems that `files` reads.",
)
@json_option
@pass_invocation
def command(
    invocation: Invocation, *, vm: str, before: str, after: str, files: bool, as_json: bool
) -> ExitCode:
    """What changed on the disks of VM between two copies, in blocks of 64 KiB.

    By their indexes, without reading the copies, where both have one of their own: a block has
    changed if its compressed bytes have, so two copies that were compressed in different ways
    differ everywhere. Else both are read, and how long that will take is said before. STAMP may be
    `latest` or `previous`. Changes nothing, takes no lock, needs the NAS for reading only, and no
    database. VM is a name, a UUID, or a directory with copies.

    With --files the file systems of both copies are compared, by partition or volume of LVM,
    without root or mount: a file of which size, times and inode are as they were is taken for
    unchanged, of any other the contents are compared. Blocks are counted only if the indexes tell.
    What is encrypted, or not read (XFS, btrfs), is named. Exit code 3 if something could not be
    read.
    """
    from coordinator.guest.comparing import FileDifferences, compare_files
    from coordinator.guest.reader_process import require_library
    from coordinator.restore import choice

    if files:
        require_library()
    opened = open_copies(invocation)
    record = vm_argument.choose(opened.site, opened.contents, vm)
    chosen = [choice.look_for(opened.site, record, which, option="") for which in (before, after)]
    warnings = [*opened.warnings, *(each.doubt for each in chosen if each.doubt)]
    for warning in warnings:
        warn(warning)
    copies = [each.copy for each in chosen]
    reason, disks = _compare(copies, opened.site.clock, vm, only_indexes=files)
    stamps = [copy.stamp for copy in copies]
    if not as_json:
        _print(disks, stamps)
    found = FileDifferences()
    if files:
        found = compare_files(vm, *copies, as_json=as_json)
    if as_json:
        document = {"schema": 1, "vm": vm, "before": stamps[0], "after": stamps[1]}
        rows = [
            {**asdict(each), "blocks": each.blocks, "bytes": each.bytes} for each in disks or ()
        ]
        told = {"disks": rows if disks is not None else None, "read_because": reason}
        said = {"database": opened.database, "warnings": warnings}
        print_json({**document, **told, **said, **(found.document() if files else {})})
    failed = found.failed or any(disk.problem for disk in disks or ())
    return ExitCode.SOME_FAILED if failed else ExitCode.DONE


def _compare(
    copies: Sequence["Copy"], clock: "Clock", vm: str, *, only_indexes: bool
) -> tuple[str, "list[DiskDifference] | None"]:
    """Why the copies had to be read (empty: they had not), and how their disks differ.

    With `only_indexes` they are not read, and then that is not known.
    """
    from shared.copies.names import final_name
    from shared.ova import copy_comparison
    from shared.ova.disk_reader import open_copy

    with ExitStack() as stack:
        readers = []
        for copy in copies:
            if not copy.present:
                raise CopyError(f"the copy {copy.stamp} cannot be used: {copy.problem}")
            path = copy.directory / final_name(copy.stamp, "ova")
            readers.append(stack.enter_context(open_copy(path)))
        old, new = readers
        reason = copy_comparison.why_read(old, new)
        if not reason:
            return "", copy_comparison.compare_indexes(old, new)
        if only_indexes:
            return "", None
        seconds = _estimate(readers, clock)
        warn(f"both copies are read, which takes about {spoken(seconds)}: {reason}")

        def show(done: int, total: int) -> None:
            text.progress(f"{vm}: compare {100 * done / total if total else 100:.0f} %")

        try:
            return reason, copy_comparison.compare_contents(old, new, show)
        finally:
            text.progress("")


def _estimate(readers: "Sequence[CopyReader]", clock: "Clock") -> float:
    """Seconds that reading all of the copies will take, by reading a little of one."""
    from shared.ova.copy_comparison import bytes_to_read

    total = bytes_to_read(*readers)
    begun, read = clock.monotonic(), 0
    for disk in readers[0].disks:
        if disk.problem:
            continue
        for offset, length in disk.runs():
            read += len(disk.read(offset, min(length, 1 << 20)))
            if read >= 8 << 20:
                break
    return total / read * (clock.monotonic() - begun) if read else 0.0


def _print(disks: "Sequence[DiskDifference] | None", stamps: Sequence[str]) -> None:
    if disks is None:
        say(f"between {stamps[0]} and {stamps[1]}:")
        return
    compared = [disk for disk in disks if not disk.problem]
    blocks = sum(disk.blocks for disk in compared)
    size = text.size(sum(disk.bytes for disk in compared))
    known = f"{blocks} blocks differ ({size})" if compared else "no disk could be compared"
    say(f"between {stamps[0]} and {stamps[1]}: {known}")
    for disk in disks:
        if disk.problem:
            warn(f"{disk.disk}: {disk.problem}")
            continue
        sizes = disk.size_before, disk.size_after
        if sizes[0] != sizes[1]:
            what = " and ".join("none" if each is None else text.size(each) for each in sizes)
            say(f"  {disk.disk}: its size was and is: {what}")
    text.print_table(
        ("disk", "changed", "appeared", "vanished", "size"),
        [
            (
                *(disk.disk, str(disk.changed), str(disk.appeared), str(disk.vanished)),
                text.size(disk.bytes),
            )
            for disk in disks
        ],
    )
