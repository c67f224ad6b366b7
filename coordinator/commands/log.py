"""`vmbackup-admin log`."""

import click

from coordinator import history, text
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.host.errors import ExitCode
from shared.output import print_json


@documented(
    example="""
        vmbackup-admin log
        vmbackup-admin log --vm web01 --limit 100
        vmbackup-admin log --json | jq '.commits[] | select(.node == "host-a")'
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="How many commits, counted from the newest.",
)
@click.option("--vm", help="Only commits that changed this VM.")
@json_option
@pass_invocation
def command(invocation: Invocation, *, limit: int, vm: str | None, as_json: bool) -> None:
    """Who changed what in the state database, when and why; the newest last.

    Every commit of every host is kept, with its reason. Takes no lock. A generation that is damaged
    or missing is shown as such.
    """
    database = invocation.site(reading=True).database
    commits = history.newest(database.root, limit, vm)[::-1]
    if as_json:
        print_json(
            {
                "schema": 1,
                "commits": [commit.to_json() for commit in commits],
                "warnings": list(database.warnings),
            }
        )
        return
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
