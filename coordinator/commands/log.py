"""`vmbackup-admin log`."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

import click

from coordinator import audit_trail, database_reading, text
from coordinator.audit_trail import LogEntry, Wanted
from coordinator.options import since_option
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.completion import VM
from shared.host.errors import ExitCode, UnknownVmError
from shared.output import print_json, say
from shared.state.rules import vm_records

if TYPE_CHECKING:
    from shared.reports.happenings import Happening
    from shared.state.contents import Contents

_LIMIT: Final = 30


@documented(
    example="""
        vmbackup-admin log
        vmbackup-admin log --since yesterday
        vmbackup-admin log --vm web01 --since "2 weeks ago"
        vmbackup-admin log --json | jq '.events[] | select(.kind == "failed")'
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    help="How many events, counted from the newest, or with --commits and --json how many commits. "
    f"Without --since {_LIMIT}.",
)
@since_option
@click.option("--vm", type=VM, metavar="VM", help="Only what happened to this VM.")
@click.option("--commits", "as_commits", is_flag=True, help="The commits, with their reasons.")
@json_option
@pass_invocation
def command(
    invocation: Invocation,
    *,
    limit: int | None,
    since: datetime | None,
    vm: str | None,
    as_commits: bool,
    as_json: bool,
) -> None:
    """What happened to the VMs of all hosts; the newest last.

    It is told by the commits of the state database, of which every one is kept with its author and
    its reason: `--commits` shows them. Takes no lock. A commit that is damaged or missing is shown
    as such. Times are UTC, by the clock of the host that noted it.
    """
    site = invocation.site(reading=True)
    contents = database_reading.read(site).snapshot.contents
    limit = limit or (None if since else _LIMIT)
    found = _told(audit_trail.commits(site.database.root, _wanted(contents, vm), since))
    if as_commits or as_json:
        commits = list(islice(found, limit))[::-1]
        text.progress("")
        _require_known(contents, vm, [commit for commit in commits if not commit.problem])
        if as_json:
            print_json(
                {
                    "schema": 1,
                    "commits": [commit.to_json() for commit in commits],
                    "warnings": list(site.database.warnings),
                    "events": [event.to_json() for each in commits for event in each.events],
                }
            )
        elif commits:
            _print_commits(commits)
        else:
            say("Nothing was committed since then.")
        return
    events = list(islice(_events(found), limit))[::-1]
    text.progress("")
    _require_known(contents, vm, [event for event in events if event.vm])
    if not events:
        say("Nothing happened" + (f" since {since:%Y-%m-%d %H:%M}Z." if since else " yet."))
        return
    text.print_table(
        ["WHEN", "HOST", "VM", "WHAT"],
        [[text.local(each.when), each.host, each.vm, each.what] for each in events],
    )


def _wanted(contents: "Contents", vm: str | None) -> Wanted | None:
    """The VM that is meant. One that is not there any more may still be in the history."""
    if vm is None:
        return None
    with suppress(UnknownVmError):
        record = vm_records.meant(contents, vm)
        return Wanted(record.key, record.uuid)
    return Wanted(vm)


def _require_known(contents: "Contents", vm: str | None, found: object) -> None:
    """Raises `UnknownVmError` if nothing was found of a VM because there is none of that name."""
    if vm is not None and not found:
        vm_records.meant(contents, vm)


def _told(commits: Iterable[LogEntry]) -> Iterator[LogEntry]:
    """The same; at a terminal it is said how far back one has read."""
    for number, commit in enumerate(commits):
        if number % 100 == 0:
            text.progress(f"reading what was noted, back to {text.local(commit.committed)} …")
        yield commit


def _events(commits: Iterable[LogEntry]) -> "Iterator[Happening]":
    for commit in commits:
        yield from reversed(commit.events)


def _print_commits(commits: Iterable[LogEntry]) -> None:
    text.print_table(
        ["NUMBER", "WHEN", "HOST", "WHY", "CHANGED"],
        [
            [
                str(commit.generation),
                text.local(commit.committed),
                commit.node,
                commit.problem or commit.reason,
                "; ".join(commit.changes),
            ]
            for commit in commits
        ],
    )
