"""What `pin` and `unpin` have in common."""

import click

from shared.command_line import Invocation, print_json
from shared.state.rules import changes


def run(
    invocation: Invocation, vm: str, stamp: str, *, pinned: bool, as_json: bool, dry_run: bool
) -> None:
    """Pins or unpins a copy and says so."""
    from shared.tasks import pruning

    site = invocation.site(reading=dry_run)
    if dry_run:
        record = changes.find(site.database.head().contents, vm)
        changed = pruning.find(site, record, stamp).pinned != pinned
    else:
        with site.database.session("pin" if pinned else "unpin") as session:
            changed = pruning.pin(site, session, vm, stamp, pinned=pinned)
    if as_json:
        print_json(
            {
                "schema": 1,
                "vm": vm,
                "stamp": stamp,
                "pinned": pinned,
                "changed": changed,
                "dry_run": dry_run,
            }
        )
        return
    word = "pinned" if pinned else "unpinned"
    state = f"would be {word}" if dry_run else f"is {word} now"
    click.echo(
        f"{vm} {stamp} "
        f"{state if changed else f'was {word} already' if pinned else 'was not pinned'}"
    )
