"""`vmbackup-admin copies`."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from coordinator import clocks, reading, text
from shared.cli import Invocation, documented, json_option, pass_invocation, print_json
from shared.copies import catalogue
from shared.copies.catalogue import Catalogue
from shared.errors import ExitCode
from shared.statedb import changes
from shared.statedb.records import Contents, VmRecord
from shared.verification import last_read

if TYPE_CHECKING:
    from shared.site import Site


#: What is not known of a copy that is being written.
_UNKNOWN_OF_PARTIAL: Final = (
    *("sha256", "started", "finished", "duration_seconds", "node", "virtualbox"),
    *("read", "verified", "rehearsed"),
    *("engine", "engine_reason", "wire"),
)


@documented(
    example="""
        vmbackup-admin copies
        vmbackup-admin copies web01 --json | jq -r '.copies[] | select(.good) | .path'
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.argument("vm", required=False)
@json_option
@pass_invocation
def command(invocation: Invocation, *, vm: str | None, as_json: bool) -> None:
    """The copies of VM, or of all VMs, as they are on the NAS: archived ones, too, and what is no copy (yet).

    Looks at the directories, not only at the database. A copy counts (`good`) when its .ova and its .json are both there and agree.
    """
    site = invocation.site(reading=True)
    found = reading.read(site)
    records = _records(found.snapshot.contents, vm)
    copies = [row for record in records for row in describe(site, record)]
    now = site.clock.now()
    warnings = (*found.warnings, *clocks.of_copies(copies, now))
    if as_json:
        print_json({"schema": 1, "copies": copies, "warnings": list(warnings)})
        return
    for warning in warnings:
        text.warn(warning)
    if not copies:
        click.echo("There are no copies yet.")
        return
    text.print_table(
        ["VM", "COPY", "STATE", "AGE", "SIZE", "HOST", "ENGINE", "PLACE", "READ", "REHEARSED"],
        [
            [
                row["vm"],
                row["stamp"],
                row["problem"] or ("good, pinned" if row["pinned"] else "good"),
                text.duration(text.seconds_since(row["finished"], now)),
                text.size(row["size"]),
                row["node"] or "",
                row["engine"] or "",
                "archive" if row["archived"] else "",
                text.duration(text.seconds_since(row["read"], now)),
                rehearsal(row, now),
            ]
            for row in copies
        ],
    )


def rehearsal(row: Mapping[str, Any], now: datetime) -> str:
    """How the last trial restore of a copy went, and how long ago; empty if there was none."""
    last = row["rehearsed"]
    if last is None:
        return ""
    return f"{last['result']}, {'booted, ' * last['booted']}{text.duration(text.seconds_since(last['time'], now))} ago"


def describe(site: "Site", record: VmRecord) -> Iterator[dict[str, Any]]:
    """What is on the NAS of one VM, oldest first; partial files last."""
    if not record.directory:
        return
    for directory, archived in ((site.archive_directory(record), True), (site.directory(record), False)):
        yield from _rows(record.key, catalogue.read(directory), archived=archived)


def _rows(vm: str, found: Catalogue, *, archived: bool) -> Iterator[dict[str, Any]]:
    for copy in found.copies:
        side = copy.sidecar
        yield {
            "vm": vm,
            "stamp": copy.stamp,
            "good": copy.good,
            "pinned": copy.pinned,
            "files": sorted(side.files) if side else [],
            "left_out": list(side.left_out) if side else [],
            "problem": copy.problem,
            "archived": archived,
            "path": str(copy.directory / f"{copy.stamp}.ova"),
            "size": copy.size,
            "sha256": side.sha256 if side else None,
            "started": side.started if side else None,
            "finished": side.finished if side else None,
            "duration_seconds": side.duration_seconds if side else None,
            "node": side.node if side else None,
            "virtualbox": side.virtualbox if side else None,
            "engine": side.engine if side else None,
            "engine_reason": side.engine_reason or None if side else None,
            "wire": asdict(side.wire) if side and side.wire else None,
            "read": last_read(side) if side else None,
            "verified": asdict(side.verified) if side and side.verified else None,
            "rehearsed": asdict(side.rehearsed) if side and side.rehearsed else None,
        }
    for partial in found.partials:
        if partial.partial.suffix == "ova":
            yield {
                "vm": vm,
                "stamp": partial.partial.stamp,
                "good": False,
                "pinned": False,
                "files": [],
                "left_out": [],
                "problem": "being written, or left by a crash",
                "archived": archived,
                "path": str(found.directory / partial.name),
                "size": partial.size,
                **dict.fromkeys(_UNKNOWN_OF_PARTIAL),
            }


def _records(contents: Contents, vm: str | None) -> list[VmRecord]:
    if vm is not None:
        return [changes.find(contents, vm)]
    return [contents.vms[key] for key in sorted(contents.vms)]
