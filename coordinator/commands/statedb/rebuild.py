"""`vmbackup-admin statedb rebuild`."""

from typing import TYPE_CHECKING, Any

import click

from coordinator import confirming, text
from coordinator.options import FiniteRange
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.host.errors import ExitCode
from shared.output import answer, warn

if TYPE_CHECKING:
    from pathlib import Path

    from shared.host.configuration import Configuration
    from shared.host.host_identity import HostIdentity
    from shared.state.records import VmRecord
    from shared.tasks.lost_knowledge import Knowledge
    from shared.tasks.rebuilding import RebuildPlan

#: How every other host takes the new database over.
_ACCEPT = "vmbackup-admin statedb accept"


@documented(
    example="""
        vmbackup-admin statedb rebuild --dry-run
        vmbackup-admin statedb rebuild
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.NAS],
)
@click.option(
    "--lease-seconds",
    type=FiniteRange(10, 3600),
    help="As for `init`; without it, what it was, or 300.",
)
@click.option(
    "--yes",
    is_flag=True,
    help="Do not ask whether there really is no archive. Needed where there is no terminal.",
)
@json_option
@dry_run_option
@pass_invocation
def rebuild(
    invocation: Invocation,
    *,
    lease_seconds: float | None,
    yes: bool,
    as_json: bool,
    dry_run: bool,
) -> ExitCode:
    """Make the state database anew, of the copies on the NAS, when it is lost or cannot be read.

    Refused (11) while a database is there that can be read, or a worker of any host shows
    heartbeats. What was in vmstate is set aside whole, under a name beside it. No copy is removed
    or moved.

    Every VM that has copies is in the new database, under the name and with the directory that it
    had, as BACKUP_NECESSARY or, if its newest copy is in the archive alone, as ARCHIVED. Others are
    found again by their hosts. Where no archive is found, it asks: VMs in one that is not mounted
    would be missing. What only the lost database knew is printed, as far as it can be read.
    Interrupted, the same command finishes. Afterwards, on each other host: vmbackup-admin statedb
    accept.
    """
    from shared.host.clock import SystemClock
    from shared.host.host_identity import HostIdentity
    from shared.nas.mount import check_nas
    from shared.tasks import rebuilding

    configuration, clock = invocation.configuration(), SystemClock()
    host = configuration.host
    check_nas(configuration.nas, reading=dry_run)
    rebuilding.require_lost(configuration.nas.state)
    try:
        rebuilding.require_silence(
            configuration.nas.state,
            clock,
            lambda quiet, all_: text.progress(f"watching heartbeats: {quiet:.0f} of {all_:.0f} s"),
        )
    finally:
        text.progress("")
    planned = rebuilding.plan(configuration, clock, lease_seconds)
    if not planned.archive_found:
        warn(_no_archive(configuration))
        if not (dry_run or yes) and not confirming.confirmed(
            "Make the state database without an archive?", yes="makes it without an archive"
        ):
            warn("nothing was changed")
            return ExitCode.FAILURE
    identity = HostIdentity.of_this_machine(host.node, host.state_directory, make=not dry_run)
    aside = None
    if not dry_run:
        aside = rebuilding.carry_out(configuration, clock, planned, identity)
    _tell(configuration, planned, identity, aside, as_json=as_json, dry_run=dry_run)
    return ExitCode.DONE


def _no_archive(configuration: "Configuration") -> str:
    return (
        f"no archive was found at {configuration.nas.archive}: if VMs were archived, mount it "
        f"first, or they are not in the new database"
    )


def _tell(
    configuration: "Configuration",
    planned: "RebuildPlan",
    identity: "HostIdentity",
    aside: "Path | None",
    *,
    as_json: bool,
    dry_run: bool,
) -> None:
    from shared.tasks import left_as_it_is, lost_knowledge

    records = sorted(planned.contents.vms.values(), key=lambda record: record.key)
    known = lost_knowledge.of_all(planned.old.vms, records)
    left = left_as_it_is.of_all(planned.made, planned.survey)
    named = {record.node for record in (*records, *planned.old.vms.values())}
    others = sorted(named - {"", identity.node})
    _warn(configuration, planned)
    document = {
        **_facts(planned, aside),
        "vms": [_row(planned, record) for record in records],
        "left": [each.to_json() for each in left],
        "lost": [each.to_json() for each in known],
        "hosts": others,
        "accept": _ACCEPT,
        "dry_run": dry_run,
    }
    answer(
        document,
        *_lines(planned, records),
        *(each.line for each in left),
        *_lost(planned, known),
        *([f"what was in vmstate is set aside in {aside}"] if aside else []),
        _end(configuration, planned, others, dry_run=dry_run),
        as_json=as_json,
    )


def _facts(planned: "RebuildPlan", aside: "Path | None") -> dict[str, Any]:
    return {
        "repository": planned.repository,
        "repository_from": planned.repository_from,
        "generation": planned.generation,
        "archive_found": planned.archive_found,
        "claims": planned.contents.claims_granted,
        "lease_seconds": planned.lease_seconds,
        "set_aside": str(aside) if aside else None,
        "lost_as_of": planned.old.committed or None,
    }


def _warn(configuration: "Configuration", planned: "RebuildPlan") -> None:
    for problem in planned.survey.problems:
        warn(f"not looked at: {problem}")
    if planned.foreign:
        warn(
            f"what is in {configuration.nas.state} is of the repository {planned.foreign}: nothing "
            f"of it is used"
        )


def _row(planned: "RebuildPlan", record: "VmRecord") -> dict[str, Any]:
    from shared.tasks.records_from_copies import in_directory

    found = [copy for copy, _ in in_directory(planned.vm(record.uuid), record.directory)]
    return {
        "vm": record.key,
        "name": record.name,
        "uuid": record.uuid,
        "node": record.node,
        "directory": record.directory,
        "status": str(record.status),
        "copies": len(found),
        "last_copy": record.last_copy.stamp if record.last_copy else None,
        "pinned": [copy.stamp for copy in found if copy.pinned],
        "held": [f"{hold.stamp} by {hold.title}" for hold in record.holds],
        "damaged": list(record.damaged),
    }


def _lines(planned: "RebuildPlan", records: "list[VmRecord]") -> list[str]:
    rows = [_row(planned, record) for record in records]
    return [
        f"{row['vm']}: {row['status']}, host {row['node']}, directory {row['directory']}, "
        f"{row['copies']} {'copy' if row['copies'] == 1 else 'copies'}"
        + (f", pinned {', '.join(row['pinned'])}" if row["pinned"] else "")
        + (f", held {', '.join(row['held'])}" if row["held"] else "")
        for row in rows
    ]


def _lost(planned: "RebuildPlan", known: "list[Knowledge]") -> list[str]:
    if planned.old_place is None or not planned.old.vms:
        return [
            "what only the lost database knew cannot be read any more: failures, who waits, VMs"
        ]
    as_of = f"as of generation {planned.old.row_generation}, {planned.old.committed}"
    return [
        f"only the lost database knew ({as_of}):" if known else f"it knew nothing more ({as_of})",
        *(f"  {each.vm}: {each.text}" for each in known),
    ]


def _end(
    configuration: "Configuration", planned: "RebuildPlan", others: list[str], *, dry_run: bool
) -> str:
    made = (
        f"{'would make' if dry_run else 'made'} the state database {planned.repository} (its id is "
        f"from {planned.repository_from}) in {configuration.nas.state}, of the copies of "
        f"{len(planned.contents.vms)} VMs, at generation {planned.generation}, with numbers above "
        f"{planned.contents.claims_granted}"
    )
    names = f" ({', '.join(others)})" if others else ""
    return f"{made}; next, on every other host{names}: {_ACCEPT}"
