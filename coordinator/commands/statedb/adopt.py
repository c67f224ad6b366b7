"""`vmbackup-admin statedb adopt`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.host.errors import ExitCode, UsageError
from shared.output import answer, warn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.site import Site
    from shared.state.states import State


@documented(
    example="""
        vmbackup-admin statedb adopt --dry-run
        vmbackup-admin statedb adopt
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.NAS, ExitCode.STATE_REFUSED],
)
@click.argument("file", required=False)
@json_option
@dry_run_option
@pass_invocation
def adopt(invocation: Invocation, *, file: str | None, as_json: bool, dry_run: bool) -> None:
    """Let an edit of vmtool-statedb by hand have its effect.

    vmtool-statedb is only a view. An edit is kept beside it as vmtool-statedb.edited-*; this
    command takes the newest (or FILE) over: the lines that the editor changed, as far as they make
    sense. Any state but BACKUP_IN_PROGRESS; CLEAN only where there is a copy; ARCHIVED by `archive`
    and `activate` only, because copies must move. A line that was removed forgets nothing.
    """
    from shared.host.clock import timestamp
    from shared.nas.nas_errors import nas_error
    from shared.state.contents import Contents
    from shared.state.rules import adoption

    site = invocation.site()
    root = site.database.root
    site.database.publish_view()  # an edit that no worker has met yet is set aside now
    name = _edited_view(root, file)
    edited = _edits(root, name)
    when = timestamp(site.clock.now())

    _require_copies(site, edited)

    def change(contents: Contents) -> Contents:
        return adoption.adopt_edit(contents, edited, when)

    before = site.database.head().contents
    after = change(before)
    changed = {
        key: (before.vms[key].status, vm.status)
        for key, vm in after.vms.items()
        if vm.status != before.vms[key].status
    }
    if not dry_run:
        site.database.commit_once(change, f"adopt {name}", "adopt")
        try:
            os.replace(root / name, root / name.replace(".edited-", ".adopted-"))
        except OSError as error:
            raise nas_error(error, f"use the state database in {root}") from error
    answer(
        {
            "file": name,
            "changed": {key: {"from": old, "to": new} for key, (old, new) in changed.items()},
            "dry_run": dry_run,
        },
        *(f"{key}: {old} -> {new}" for key, (old, new) in sorted(changed.items())),
        f"{'would adopt' if dry_run else 'adopted'} {name}: {len(changed)} VMs changed",
        as_json=as_json,
    )


def _edited_view(root: Path, file: str | None) -> str:
    """The name of the edit that is meant: the newest, if none is named. Raises `UsageError`."""
    from shared.state.store import readable_view

    known = readable_view.edited_views(root)
    name = (file and Path(file).name) or (known[-1] if known else None)
    if name is None:
        raise UsageError("vmtool-statedb was not edited by hand: there is nothing to adopt")
    if name not in known:
        raise UsageError(
            f"there is no edit {name} in {root}", hint=f"there are: {', '.join(known) or 'none'}"
        )
    return name


def _edits(root: Path, name: str) -> "Mapping[str, State]":
    """The states that were edited, by VM; warns of lines that are not taken for edits."""
    from shared.state.store import readable_view

    edited, doubtful = readable_view.edits(root, name)
    for key, state in doubtful.items():
        warn(
            f"{key}: {state} was its state just before the edit was found, so "
            f"this line is not taken for an edit"
        )
    return edited


def _require_copies(site: "Site", edited: "Mapping[str, State]") -> None:
    """Raises `IllegalMoveError` if a VM is to be CLEAN whose last copy is missing or not good.

    The database alone does not know.
    """
    from shared.host.errors import IllegalMoveError
    from shared.state.states import State
    from shared.tasks import vm_copies

    for key, record in site.database.head().contents.vms.items():
        if (
            edited.get(key) != State.CLEAN
            or record.status == State.CLEAN
            or record.last_copy is None
        ):
            continue
        good = {copy.stamp for copy, _ in vm_copies.copies(site, record) if copy.good}
        if record.last_copy.stamp not in good:
            raise IllegalMoveError(
                (
                    f"{key} cannot be made CLEAN by hand: its copy {record.last_copy.stamp} is not "
                    f"there, or not good"
                ),
                hint="BACKUP_NECESSARY makes a backup worker copy it",
            )
