"""`vmbackup-admin verify`."""

from typing import TYPE_CHECKING

import click

from coordinator import text, vm_argument
from coordinator.copies_site import CopiesSite, open_copies
from coordinator.verification_findings import WAY_OUT, Findings, gone, interrupted
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.completion import VM
from shared.host.errors import (
    ExitCode,
    IllegalMoveError,
    LockedError,
    LockLostError,
    UnknownVmError,
    UsageError,
    VmBackupError,
)
from shared.output import answer, pasteable, print_json, say, warn
from shared.state.rules import vm_records

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.copies.catalogue import Copy
    from shared.site import Site
    from shared.state.records import VmRecord
    from shared.state.sessions.session import Session
    from shared.tasks.verification import Examined


@documented(
    example="""
        vmbackup-admin verify web01
        vmbackup-admin verify --all --json | jq '.copies[] | select(.good | not)'
        vmbackup-admin verify --due --dry-run
    """,
    codes=[
        ExitCode.SOME_FAILED,
        ExitCode.NO_DATABASE,
        ExitCode.LOCKED,
        ExitCode.LOCK_LOST,
        ExitCode.NAS,
    ],
    special={
        ExitCode.SOME_FAILED: "a copy is damaged, gone, or cannot be read; all others were verified"
    },
)
@click.argument("vm", type=VM, required=False)
@click.option("--all", "everything", is_flag=True, help="The copies of all VMs of all hosts.")
@click.option(
    "--due", is_flag=True, help="Only copies that were not read for `backup.verify_days` days."
)
@json_option
@dry_run_option
@pass_invocation
def command(
    invocation: Invocation,
    *,
    vm: str | None,
    everything: bool,
    due: bool,
    as_json: bool,
    dry_run: bool,
) -> ExitCode:
    """Read copies again in full and compare them with their digests.

    For when a NAS had a fault, or before a copy is relied on; `vmbackup-worker verify` does the
    same on a schedule. A damaged copy is marked, is never counted again, and is not deleted; if it
    was the newest one, its VM becomes BACKUP_NECESSARY. A VM on which somebody works is skipped. As
    many bytes as there are, as fast as `backup.bytes_per_second` lets. Copies of which no record
    tells are read, too; without a usable database the result is only said. VM may be a name, a
    UUID, or a directory with copies. Exit code 3 if a copy is damaged, cannot be read, or was the
    newest one and is gone.
    """
    if (vm is None) != (everything or due) and not (vm and due and not everything):
        raise UsageError(
            "say which copies: a VM, --all, or --due",
            hint="vmbackup-admin verify --due reads those whose turn it is",
        )
    opened = open_copies(invocation, reading=dry_run)
    site, records = opened.site, _asked_for(opened, vm)
    if dry_run:
        _plan(opened, records, due=due, as_json=as_json)
        return ExitCode.DONE
    report = Findings()
    try:
        if opened.usable:
            _verify(site, records, report, due=due, named=vm is not None, as_json=as_json)
        else:
            _only_read(site, records, report, due=due, as_json=as_json)
    except KeyboardInterrupt:
        text.progress("")
        warn(interrupted(report))
        raise
    if as_json:
        print_json({**report.to_json(), "database": opened.database})
    else:
        good = sum(not copy.problem for copy in report.examined)
        say(
            f"{len(report.examined)} copies read, {good} good, {len(report.examined) - good} "
            f"damaged"
        )
        if good < len(report.examined):
            text.print_lines([pasteable(WAY_OUT)])
    return report.exit_code


def _plan(opened: CopiesSite, records: "list[VmRecord]", *, due: bool, as_json: bool) -> None:
    """Says what would be read."""
    planned = [
        (record.key, copy) for record in records for copy in _wanted(opened.site, record, due=due)
    ]
    answer(
        {
            "dry_run": True,
            "database": opened.database,
            "copies": [
                {"vm": key, "stamp": copy.stamp, "size": copy.size} for key, copy in planned
            ],
        },
        *(f"would read {key} {copy.stamp} ({text.size(copy.size)})" for key, copy in planned),
        as_json=as_json,
    )


def _asked_for(opened: CopiesSite, vm: str | None) -> "list[VmRecord]":
    """The records of the VMs that were asked for, also those made of unlisted copies."""
    from shared.tasks import finding_unlisted

    site, contents = opened.site, opened.contents
    if vm is not None:
        return [vm_argument.choose(site, contents, vm)]
    found = finding_unlisted.find(site, contents)
    for problem in found.problems:
        warn(problem)
    return [*(contents.vms[key] for key in sorted(contents.vms)), *found.records]


def _only_read(
    site: "Site", records: "list[VmRecord]", report: Findings, *, due: bool, as_json: bool
) -> None:
    """Reads the copies without a database: nothing is noted anywhere."""
    from shared.tasks import verification

    for record in records:
        try:
            for copy in _wanted(site, record, due=due):
                problem = verification.examine(copy, _progress(record, copy), site.pace())
                archived = copy.directory != site.directory(record)
                _tell(
                    report,
                    verification.Examined(record.key, copy.stamp, archived, copy.size, problem),
                    as_json=as_json,
                )
        except VmBackupError as error:
            report.unread[record.key] = error.message
            warn(f"{record.key}: {error.message}")
        finally:
            text.progress("")


def _progress(record: "VmRecord", copy: "Copy") -> "Callable[[int, int], None]":
    def show(done: int, total: int) -> None:
        text.progress(f"{record.key} {copy.stamp}: {text.size(done)} of {text.size(total)}")

    return show


def _tell(report: Findings, examined: "Examined", *, as_json: bool) -> None:
    report.examined.append(examined)
    text.progress("")
    if not as_json:
        say(f"{examined.key} {examined.stamp}: {examined.problem or 'good'}")


def _wanted(site: "Site", record: "VmRecord", *, due: bool) -> "list[Copy]":
    from shared.tasks import due_verifications, vm_copies

    if due:
        return due_verifications.due_copies(site, record, site.clock.now())
    return [copy for copy, _ in vm_copies.copies(site, record)]


def _verify(
    site: "Site",
    records: "list[VmRecord]",
    report: Findings,
    *,
    due: bool,
    named: bool,
    as_json: bool,
) -> None:
    with site.database.session("verify") as session:
        for record in records:
            try:
                _verify_vm(site, session, record, report, due=due, as_json=as_json)
            except (LockLostError, IllegalMoveError):
                raise
            except (LockedError, UnknownVmError) as error:
                if named:
                    raise
                report.skipped[record.key] = error.message
                warn(f"skipped: {error.message}")
            except VmBackupError as error:
                if named:
                    raise
                report.unread[record.key] = error.message
                warn(f"{record.key}: {error.message}")
            finally:
                text.progress("")


def _verify_vm(
    site: "Site",
    session: "Session",
    record: "VmRecord",
    report: Findings,
    *,
    due: bool,
    as_json: bool,
) -> None:
    from shared.tasks import finding_unlisted, verification, vm_copies

    vm_records.require_free(record)
    for copy in _wanted(site, record, due=due):
        finding_unlisted.take_in(session, record)
        examined = verification.verify_copy(
            site, session, record.key, copy.stamp, _progress(record, copy)
        )
        if examined is not None:
            _tell(report, examined, as_json=as_json)
    if record.directory and finding_unlisted.is_listed(record):
        verification.settle(site, session, record.key)
        now = vm_records.find(site.database.head().contents, record.key)
        vm_copies.require_archived(site, now)
        if missing := gone(site, record, report):
            report.unread[record.key] = missing
            warn(f"{record.key}: {missing}")
