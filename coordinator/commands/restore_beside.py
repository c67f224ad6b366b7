"""`vmbackup-admin restore` without --into: a VM, or one disk, beside what there is."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator import text, vm_argument
from coordinator.copies_site import open_copies
from shared.command_line import Invocation
from shared.host.errors import ExitCode, UsageError, VmBackupError
from shared.host.printable import quoted
from shared.output import answer, print_json, say, warn
from shared.tasks import finding_unlisted

if TYPE_CHECKING:
    from coordinator.copies_site import CopiesSite
    from coordinator.restore.completing import RestoreDifference
    from coordinator.restore.restoring import Restored
    from shared.copies.catalogue import Copy
    from shared.site import Site
    from shared.state.records import VmRecord
    from shared.tasks.noted_import import Progress
    from shared.virtualbox.importing import ImportPlan


@dataclass(frozen=True, slots=True)
class NewVm:
    """What the operator wants to have of the copy of `vm`, beside what there is."""

    vm: str
    name: str | None
    folder: Path | None
    new_macs: bool
    with_host_access: bool

    def plan(self, site: "Site", copy: "Copy") -> "ImportPlan":
        """As a plan for this host. Raises what `restoring.plan` raises."""
        from coordinator.restore import restoring

        return restoring.plan(
            *(site, copy),
            name=self.name,
            folder=self.folder,
            keep_macs=not self.new_macs,
            with_host_access=self.with_host_access,
        )


def restore(
    invocation: Invocation,
    wanted: NewVm,
    which: str,
    disk: int | None,
    *,
    as_json: bool,
    dry_run: bool,
) -> ExitCode:
    """Restores something beside what there is: a VM, or one disk."""
    from coordinator.restore import choice, kept_places, restoring

    if wanted.folder:
        restoring.refuse_mistyped(wanted.folder)
    opened = open_copies(invocation)
    record = vm_argument.choose(opened.site, opened.contents, wanted.vm)
    chosen = choice.look_for(opened.site, record, which)
    if chosen.doubt:
        warn(chosen.doubt)
    warnings = [*opened.warnings, *([chosen.doubt] if chosen.doubt else [])]
    if disk is not None:
        if wanted.folder is not None:
            kept_places.refuse_kept_place(opened.site.configuration.nas, wanted.folder)
        return _one_disk(wanted, chosen.copy, disk, warnings, as_json=as_json, dry_run=dry_run)
    if dry_run:
        return _foreseen(opened, wanted, chosen.copy, warnings, as_json=as_json)
    return _made(invocation, opened, record, wanted, chosen.copy, warnings, as_json=as_json)


def _progress(vm: str) -> "Progress":
    def show(doing: str, percent: float) -> None:
        text.progress(f"{vm}: {doing} {percent:.0f} %")

    return show


def _one_disk(
    wanted: NewVm,
    copy: "Copy",
    disk: int,
    warnings: list[str],
    *,
    as_json: bool,
    dry_run: bool,
) -> ExitCode:
    from coordinator.restore import one_disk

    vm, folder = wanted.vm, wanted.folder
    if folder is None or wanted.name is not None or wanted.new_macs or wanted.with_host_access:
        raise UsageError(
            "--disk goes with --to FILE, and with nothing else about a VM",
            hint=f"vmbackup-admin restore --disk {disk} --to disk.vdi {quoted(vm)}",
        )
    try:
        made = one_disk.restore_disk(copy, disk, folder, _progress(vm), only_look=dry_run)
    finally:
        text.progress("")
    facts = {"vm": vm, "stamp": copy.stamp, "disk": disk, "file": str(folder), "size": made}
    answer(
        {**facts, "warnings": warnings, "dry_run": dry_run},
        f"{'would restore' if dry_run else 'restored'} disk {disk} of {copy.stamp} "
        f"({text.size(made)}) as {folder}",
        as_json=as_json,
    )
    return ExitCode.DONE


def _foreseen(
    opened: "CopiesSite", wanted: NewVm, copy: "Copy", warnings: list[str], *, as_json: bool
) -> ExitCode:
    from coordinator.restore import completing

    what = wanted.plan(opened.site, copy)
    foreseen = completing.foresee(what)
    answer(
        {
            "vm": wanted.vm,
            "stamp": copy.stamp,
            "name": what.name,
            "folder": str(what.folder),
            "size": copy.size,
            "warnings": warnings,
            "database": opened.database,
            **_facts(foreseen, what),
            "dry_run": True,
        },
        f"would restore {what.source} ({text.size(copy.size)}) as {what.name} in {what.folder}",
        *_sentences(foreseen, what),
        as_json=as_json,
    )
    return ExitCode.DONE


def _made(
    invocation: Invocation,
    opened: "CopiesSite",
    record: "VmRecord",
    wanted: NewVm,
    copy: "Copy",
    warnings: list[str],
    *,
    as_json: bool,
) -> ExitCode:
    from coordinator.restore import restoring

    site, what = opened.site, wanted.plan(opened.site, copy)
    try:
        restored = restoring.bring_back(site, copy, what, _progress(wanted.vm))
    finally:
        text.progress("")
    recorded = opened.usable and _record(invocation, record, restored)
    if as_json:
        print_json(
            {
                "schema": 1,
                "vm": wanted.vm,
                "stamp": restored.stamp,
                "name": restored.name,
                "uuid": restored.uuid,
                "settings_file": restored.settings_file,
                "recorded": recorded,
                "imported_because": restored.imported_because,
                "warnings": warnings,
                "database": opened.database,
                **_facts(restored.difference, what),
            }
        )
        return ExitCode.DONE
    say(f"restored {restored.stamp} as {restored.name} {{{restored.uuid}}} in {what.folder}")
    if restored.imported_because:
        say(f"VirtualBox imported it, which takes longer: {restored.imported_because}")
    for sentence in _sentences(restored.difference, what):
        say(sentence)
    _advise(site, record, restored)
    return ExitCode.DONE


def _facts(difference: "RestoreDifference", what: "ImportPlan") -> dict[str, object]:
    """How the restored VM differs from the one that was backed up, for `--json`."""
    return {
        "host_access": list(difference.host_access),
        "host_access_put_back": what.with_host_access,
        "left_out": list(difference.left_out),
        "lost": list(difference.lost),
    }


def _sentences(difference: "RestoreDifference", what: "ImportPlan") -> list[str]:
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

    if not finding_unlisted.is_listed(record):
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
    if not finding_unlisted.is_listed(record):
        return
    if restored.name == record.name and (record.node != site.node or record.missing_since):
        say(
            f"If it replaces {record.key} of {record.node or 'an unknown host'}: "
            f"`vmbackup-admin forget` that one before the next vmfind"
            " here, and the new VM goes on with its name; its copies stay (docs/restore.md)."
        )
