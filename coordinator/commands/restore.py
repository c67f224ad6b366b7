"""`vmbackup-admin restore`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coordinator import text, vm_argument
from coordinator.copies_site import open_copies
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.host.errors import ExitCode, VmBackupError
from shared.output import answer, print_json, say, warn
from shared.tasks import unlisted

if TYPE_CHECKING:
    from coordinator.restore.completing import Difference
    from coordinator.restore.restoring import Restored
    from shared.site import Site
    from shared.state.records import VmRecord
    from shared.virtualbox.importing import ImportPlan


@documented(
    example="""
        vmbackup-admin restore web01
        vmbackup-admin restore web01 --copy previous --as web01-yesterday --new-macs
        vmbackup-admin restore web01 --copy 20261122T203800Z-17 --to /srv/vms --dry-run
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS, ExitCode.VBOXMANAGE],
)
@click.argument("vm")
@click.option(
    "--copy",
    "which",
    default="latest",
    show_default=True,
    metavar="latest|previous|STAMP",
    help="Which copy of VM.",
)
@click.option("--as", "name", metavar="NAME", help="The name of the new VM, if not the original's.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Make the VM's folder in DIR, not where VirtualBox would.",
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
    new_macs: bool,
    with_host_access: bool,
    as_json: bool,
    dry_run: bool,
) -> ExitCode:
    """Make a VM of a copy, on this host; run it as the user who owns the VMs.

    Works for VMs of any host, also of one that is gone, for archived ones, for copies of which no
    record tells, and without a database. VM is a name, a UUID, or a directory with copies. It needs
    the NAS for reading only, and where it can be written, notes it in the log. The copy is read in
    full and compared with its digests first. Nothing is ever overwritten: refused if this host has
    a VM or folder of that name. Interrupted or failed, it leaves nothing behind. What VirtualBox
    leaves out of an import is put back from the settings kept beside the copy; what lets a VM write
    to this host or listen there is taken away and listed, unless --with-host-access is given. The
    new VM has a UUID of its own, and to the backups it is another VM (docs/restore.md).
    """
    from coordinator.restore import choice, completing, restoring

    opened = open_copies(invocation)
    site, record = opened.site, vm_argument.choose(opened.site, opened.contents, vm)
    chosen = choice.look_for(site, record, which)
    copy, warnings = chosen.copy, [chosen.doubt] if chosen.doubt else []
    if chosen.doubt:
        warn(chosen.doubt)
    what = restoring.plan(
        *(site, copy),
        name=name,
        folder=folder,
        keep_macs=not new_macs,
        with_host_access=with_host_access,
    )
    if dry_run:
        foreseen = completing.foresee(what)
        answer(
            {
                "vm": vm,
                "stamp": copy.stamp,
                "name": what.name,
                "folder": str(what.folder),
                "size": copy.size,
                "warnings": [*opened.warnings, *warnings],
                "database": opened.database,
                **_facts(foreseen, what),
                "dry_run": True,
            },
            "\n".join(
                [
                    (
                        f"would restore {what.source} ({text.size(copy.size)}) as {what.name} in "
                        f"{what.folder}"
                    ),
                    *_sentences(foreseen, what),
                ]
            ),
            as_json=as_json,
        )
        return ExitCode.DONE

    def show(doing: str, percent: float) -> None:
        text.progress(f"{vm}: {doing} {percent:.0f} %")

    try:
        restoring.verify(copy, show)
        restored = restoring.restore(site, copy.stamp, what, show)
    finally:
        text.progress("")
    recorded = opened.usable and _record(invocation, record, restored)
    if as_json:
        document = {
            "schema": 1,
            "vm": vm,
            "stamp": restored.stamp,
            "name": restored.name,
            "uuid": restored.uuid,
        }
        print_json(
            {
                **document,
                "settings_file": restored.settings_file,
                "recorded": recorded,
                "warnings": [*opened.warnings, *warnings],
                "database": opened.database,
                **_facts(restored.difference, what),
            }
        )
    else:
        say(f"restored {restored.stamp} as {restored.name} {{{restored.uuid}}} in {what.folder}")
        for sentence in _sentences(restored.difference, what):
            say(sentence)
        _advise(site, record, restored)
    return ExitCode.DONE


def _facts(difference: "Difference", what: "ImportPlan") -> dict[str, object]:
    """How the restored VM differs from the one that was backed up, for `--json`."""
    return {
        "host_access": list(difference.host_access),
        "host_access_put_back": what.with_host_access,
        "left_out": list(difference.left_out),
        "lost": list(difference.lost),
    }


def _sentences(difference: "Difference", what: "ImportPlan") -> list[str]:
    """The same for people: a heading and one line for each."""
    access = (
        "With what lets it write to this host or listen there:"
        if what.with_host_access
        else "Without what lets it write to this host or listen there (--with-host-access):"
    )
    said = []
    for heading, items in (
        (access, difference.host_access),
        ("Not in the copy:", difference.left_out),
        ("Not as it was:", difference.lost),
    ):
        said += [heading, *(f"  {item}" for item in items)] if items else []
    return said


def _record(invocation: Invocation, record: "VmRecord", restored: "Restored") -> bool:
    """Notes it in the log; answers whether that could be done.

    The NAS is opened anew: what will do for reading may be a wrong one.
    """
    from coordinator.restore import restoring

    if not unlisted.is_listed(record):
        warn("the VM is restored, but that is not in the log: the database has no record of it")
        return False
    try:
        restoring.note(invocation.site(), record.key, restored)
    except VmBackupError as error:
        warn(f"the VM is restored, but that is not in the log: {error.message}")
        return False
    return True


def _advise(site: "Site", record: "VmRecord", restored: "Restored") -> None:
    """What the backups will make of a VM that replaces its original."""
    if not unlisted.is_listed(record):
        return
    if restored.name == record.name and (record.node != site.node or record.missing_since):
        say(
            f"If it replaces {record.key} of {record.node or 'an unknown host'}: "
            f"`vmbackup-admin forget` that one before the next vmfind"
            " here, and the new VM goes on with its name; its copies stay (docs/restore.md)."
        )
