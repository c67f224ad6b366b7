"""`vmbackup-admin copies`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from coordinator import clocks, hold_words, text, vm_argument
from coordinator.copies_site import CopiesSite, open_copies
from coordinator.copy_words import incomplete, missing, rehearsal, state, strange
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.completion import VM
from shared.copies import catalogue
from shared.copies.catalogue import Catalogue, Copy, PartialFile
from shared.copies.survey import CopiesPlace
from shared.host.errors import ExitCode
from shared.output import print_json, say, warn
from shared.state.hold import Hold
from shared.state.records import VmRecord
from shared.tasks import finding_unlisted
from shared.tasks.vm_copies import last_read

if TYPE_CHECKING:
    from shared.site import Site


#: What is not known of a copy that is being written.
_UNKNOWN_OF_PARTIAL: Final = (
    *("sha256", "started", "finished", "duration_seconds", "node", "virtualbox"),
    *("read", "read_in_full", "suspect", "verified", "rehearsed", "screenshot"),
    *("engine", "engine_reason", "not_paused", "wire"),
)


@documented(
    example="""
        vmbackup-admin copies
        vmbackup-admin copies web01 --json | jq -r '.copies[] | select(.good) | .path'
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.argument("vm", type=VM, required=False)
@json_option
@pass_invocation
def command(invocation: Invocation, *, vm: str | None, as_json: bool) -> ExitCode:
    """The copies of VM, or of all VMs, as they are on the NAS.

    Archived ones, too, those of VMs of which no record tells, and what is no copy (yet).

    Looks at the directories, not only at the database. A copy counts (`good`) when its .ova and its
    .json are both there and agree. While the archive is not mounted, the other copies are shown
    with a warning; exit code 13 if archived ones were asked for. Without a usable database the
    directories tell all. VM may be a name, a UUID, or a directory with copies.
    """
    opened = open_copies(invocation)
    site, now = opened.site, opened.site.clock.now()
    records, nobodys, unlooked = _asked_for(opened, vm)
    copies, unseen = describe(site, records)
    copies += _of_nobody(nobodys)
    odd = (line for record in records for line in strange(site, record))
    gone = () if unseen else missing(site, records)
    unseen = list(dict.fromkeys((*unseen, *unlooked)))
    warnings = (*opened.warnings, *unseen, *gone, *clocks.of_copies(copies, now), *odd)
    if as_json:
        shown = {"database": opened.database, "copies": copies, "warnings": list(warnings)}
        print_json({"schema": 1, **shown})
        return incomplete(unseen, records)
    for warning in warnings:
        warn(warning)
    if copies:
        _print(copies, now)
        _print_unlisted(records)
    else:
        none = "There are no copies yet." if vm is None else f"There is no copy of {vm}."
        say("No copies were found where one could look." if unseen else none)
    return incomplete(unseen, records)


def _print(copies: Sequence[Mapping[str, Any]], now: datetime) -> None:
    text.print_table(
        ["VM", "COPY", "STATE", "AGE", "SIZE", "HOST", "ENGINE", "PLACE", "VERIFIED", "REHEARSED"],
        [
            [
                row["name"] or row["vm"],
                row["stamp"],
                state(row),
                text.duration(text.seconds_since(row["finished"], now)),
                text.size(row["size"]),
                row["node"] or "",
                row["engine"] or "",
                ", ".join(["archive"] * row["archived"] + ["no record"] * (not row["listed"])),
                text.duration(text.seconds_since(row["read"], now)),
                rehearsal(row, now),
            ]
            for row in copies
        ],
    )


def describe(site: "Site", records: Sequence[VmRecord]) -> tuple[list[dict[str, Any]], list[str]]:
    """What is on the NAS of these VMs, of each the oldest first and partial files last.

    And why one could not look everywhere.
    """
    rows: list[dict[str, Any]] = []
    problems: dict[str, None] = {}
    for record in records:
        places, unseen = site.all_directories(record)
        problems |= dict.fromkeys(f"{problem.message} ({problem.hint})" for problem in unseen)
        for directory, archived in places:
            found = catalogue.read(directory, record.uuid)
            listed = finding_unlisted.is_listed(record)
            rows += [
                {**row, "name": record.key if listed else record.name, "uuid": record.uuid}
                | {"listed": listed, "directory": str(directory)}
                for row in _rows(record.key, found, record.holds, archived=archived)
            ]
    return rows, list(problems)


def _of_nobody(places: Sequence[CopiesPlace]) -> list[dict[str, Any]]:
    """What may be copies, and does not tell whose."""
    return [
        {**row, "name": None, "uuid": None, "listed": False, "directory": str(place.path)}
        for place in places
        for row in _rows(str(place.path), place.catalogue, (), archived=place.archived)
    ]


def _asked_for(
    opened: CopiesSite, vm: str | None
) -> tuple[list[VmRecord], Sequence[CopiesPlace], Sequence[str]]:
    """The records of the VMs that were asked for, also those made of unlisted copies.

    And of what is nobody's, where it lies, and where one could not look.
    """
    site, contents = opened.site, opened.contents
    if vm is not None:
        return [vm_argument.choose(site, contents, vm)], (), ()
    found = finding_unlisted.find(site, contents)
    recorded = [contents.vms[key] for key in sorted(contents.vms)]
    others = sorted(found.records, key=lambda record: (record.name, record.key))
    return [*recorded, *others], found.nobodys, found.problems


def _print_unlisted(records: Sequence[VmRecord]) -> None:
    """Of which copies no record tells: what commands take for them."""
    others = [record for record in records if not finding_unlisted.is_listed(record)]
    if not others:
        return
    say()
    say("No record of the database tells of these copies; commands take as VM what stands here:")
    text.print_table(
        ["VM", "NAME", "HOST", "DIRECTORY"],
        [[record.key, record.name, record.node, record.directory] for record in others],
    )


def _rows(
    vm: str, found: Catalogue, holds: Iterable[Hold], *, archived: bool
) -> Iterator[dict[str, Any]]:
    unknown = found.order_unknown
    for copy in found.copies:
        disputed = copy.stamp in unknown
        yield {"vm": vm, **_row(copy, holds, disputed=disputed, archived=archived)}
    for partial in found.partials:
        if partial.partial.suffix == "ova":
            yield {"vm": vm, **_row_of_partial(partial, found.directory, archived=archived)}


def _row(copy: Copy, holds: Iterable[Hold], *, disputed: bool, archived: bool) -> dict[str, Any]:
    side = copy.sidecar
    return {
        "stamp": copy.stamp,
        "good": copy.good,
        "pinned": copy.pinned,
        "holds": hold_words.of_copy(copy, holds),
        "order_unknown": disputed,
        "files": sorted(side.files) if side else [],
        "left_out": list(side.left_out) if side else [],
        "problem": copy.problem,
        "archived": archived,
        "path": str(copy.directory / f"{copy.stamp}.ova"),
        "size": copy.size,
        "sha256": side.sha256 or None if side else None,
        "started": side.started if side else None,
        "finished": side.finished if side else None,
        "duration_seconds": side.duration_seconds if side else None,
        "node": side.node if side else None,
        "virtualbox": side.virtualbox if side else None,
        "engine": side.engine if side else None,
        "engine_reason": side.engine_reason or None if side else None,
        "not_paused": side.not_paused or None if side else None,
        "wire": asdict(side.wire) if side and side.wire else None,
        "read": last_read(side) or None if side else None,
        "taken_from": list(side.taken_from) if side else [],
        "read_in_full": side.read_in_full if side else None,
        "suspect": side.suspect or None if side else None,
        "verified": asdict(side.verified) if side and side.verified else None,
        "rehearsed": asdict(side.rehearsed) if side and side.rehearsed else None,
        "screenshot": str(copy.directory / f"{copy.stamp}.png") if copy.screenshot else None,
    }


def _row_of_partial(partial: PartialFile, directory: Path, *, archived: bool) -> dict[str, Any]:
    return {
        "stamp": partial.partial.stamp,
        "good": False,
        "pinned": False,
        "holds": [],
        "order_unknown": False,
        "files": [],
        "left_out": [],
        "taken_from": [],
        "problem": "being written, or left by a crash",
        "archived": archived,
        "path": str(directory / partial.name),
        "size": partial.size,
        **dict.fromkeys(_UNKNOWN_OF_PARTIAL),
    }
