"""`vmbackup-admin files`."""

from pathlib import Path

import click

from coordinator import vm_argument
from coordinator.copies_site import open_copies
from coordinator.options import copy_option
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.completion import VM
from shared.host.errors import ExitCode, UsageError
from shared.output import warn


@documented(
    example="""
        vmbackup-admin files web01
        vmbackup-admin files web01 /etc/nginx --copy previous
        vmbackup-admin files web01 /home/ann/thesis.odt --get /tmp
        vmbackup-admin files web01 /Users/ann --disk 1.3 --get /srv/rescue
    """,
    codes=[ExitCode.SOME_FAILED, ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.argument("vm", type=VM)
@click.argument("path", required=False)
@copy_option
@click.option(
    "--disk",
    default="",
    metavar="N[.P]|GROUP/NAME",
    help="Only disk N, its partition P, or a volume of LVM, as they are listed without PATH.",
)
@click.option(
    "--get",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DESTINATION",
    help="Fetch PATH, with all below it, into this directory, which must be there.",
)
@json_option
@dry_run_option
@pass_invocation
def command(  # noqa: PLR0913 - options of the command line
    invocation: Invocation,
    *,
    vm: str,
    path: str | None,
    which: str,
    disk: str,
    folder: Path | None,
    as_json: bool,
    dry_run: bool,
) -> ExitCode:
    """List and fetch files inside the disks of a copy, without restoring it.

    Reads ext2, ext3, ext4, NTFS, FAT and exFAT straight from the OVA, in partitions and on linear
    and striped volumes of LVM; needs no root, the NAS for reading only, no lock, and no database.
    Without PATH: disks, partitions and volumes. PATH is looked up in all file systems of the copy;
    if several have it, --disk says which. With --get nothing that is there is overwritten, links
    and devices are left out, and who may read a file is taken over, no more. VM is a name, a UUID,
    or a directory with copies. Of a directory 10,000 names are listed at most. Exit code 3 if that
    left some out, or something could not be read: of a file that is damaged what comes before is
    there, as NAME.incomplete.
    """
    from coordinator.guest import getting, listing
    from coordinator.guest.reader_process import GuestReader, require_library
    from coordinator.guest.request import Request
    from coordinator.restore import choice
    from shared.copies.names import final_name

    if folder is not None and path is None:
        raise UsageError("--get needs PATH", hint="/ is a whole file system")
    require_library()
    opened = open_copies(invocation)
    record = vm_argument.choose(opened.site, opened.contents, vm)
    chosen = choice.look_for(opened.site, record, which)
    if chosen.doubt:
        warn(chosen.doubt)
    copy, doubts = chosen.copy, [chosen.doubt] if chosen.doubt else []
    if copy.problem and copy.problem not in chosen.doubt:
        doubts.append(f"{copy.stamp}: {copy.problem}")
        warn(doubts[-1])
    reader = GuestReader(copy.directory / final_name(copy.stamp, "ova"), disk, vm)
    request = Request(opened, vm, copy.stamp, reader, path, doubts, as_json)
    if path is None:
        return listing.systems(request)
    if folder is None:
        return listing.entries_at(request)
    return getting.foresee(request, folder) if dry_run else getting.get(request, folder)
