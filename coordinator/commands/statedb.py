"""`vmbackup-admin statedb`."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from coordinator import text
from shared.command_line import (
    HELP,
    Invocation,
    answer,
    documented,
    dry_run_option,
    json_option,
    pass_invocation,
    print_json,
)
from shared.host.errors import ExitCode, UsageError, VmBackupError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.host.configuration import Configuration
    from shared.site import Site
    from shared.state.states import State


@documented(
    example="""
        vmbackup-admin statedb check
        vmbackup-admin statedb check --set-aside 4711
        vmbackup-admin statedb check --rebuild-version
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.option(
    "--set-aside",
    type=click.IntRange(1),
    metavar="N",
    help="Move generation N, the newest and damaged, to damaged/.",
)
@click.option(
    "--rebuild-version",
    is_flag=True,
    help="Write a damaged vmtool-db-version anew from the newest generation.",
)
@click.option(
    "--lease-seconds",
    type=click.FloatRange(10, 3600),
    help="With --rebuild-version: the lease time, if it cannot be read any more.",
)
@json_option
@pass_invocation
def check(
    invocation: Invocation,
    *,
    set_aside: int | None,
    rebuild_version: bool,
    lease_seconds: float | None,
    as_json: bool,
) -> ExitCode:
    """Read every generation: checksums, chain, view, version file.

    Says what is wrong and how to go on.

    Takes no lock and changes nothing, unless told to by an option. Exit code 1 if something is
    wrong. With --set-aside the generation before the damaged one is the newest again; what only the
    damaged one said is done again by the workers.
    """
    from shared.nas.mount import check_nas
    from shared.state.store import inspection, repair

    configuration = invocation.configuration()
    root = configuration.nas.state
    check_nas(configuration.nas, reading=set_aside is None and not rebuild_version)
    if set_aside is not None:
        place = repair.set_aside(root, set_aside)
        text.warn(
            f"generation {set_aside} was moved to {place}; what only it said is lost, and the "
            f"workers concerned do their work again"
        )
        notes = configuration.host.state_directory
        text.warn(
            f"a host that says that the history was rolled back had seen it: remove "
            f"seen-*.json "
            f"in {notes} there"
        )
        _repair_view(configuration)
        _raise_numbers(configuration)
    if rebuild_version:
        settings = repair.rebuild_version(root, lease_seconds)
        text.warn(
            f"wrote vmtool-db-version: repository {settings.repository}, lease "
            f"{settings.lease_seconds:g} s, {settings.primitive}"
        )
    try:
        found = inspection.inspect(
            root, lambda done, total: text.progress(f"generation {done} of {total}")
        )
    finally:
        text.progress("")
    head = found.head.generation if found.head else None
    if as_json:
        findings = [{"what": finding.what, "hint": finding.hint} for finding in found.findings]
        print_json(
            {
                "schema": 1,
                "generations": found.generations,
                "oldest": found.oldest,
                "head": head,
                "findings": findings,
            }
        )
    else:
        for finding in found.findings:
            click.echo(f"WRONG: {finding.what}\n       {finding.hint}")
        state = (
            "everything is in order" if not found.findings else f"{len(found.findings)} findings"
        )
        click.echo(
            f"{found.generations} generations, from {found.oldest} to {found.newest}; newest "
            f"good one: {head}; {state}"
        )
    return ExitCode.FAILURE if found.findings else ExitCode.DONE


def _repair_view(configuration: "Configuration") -> None:
    """Writes `vmtool-statedb` for the generation that is the newest now.

    While the version file is damaged, a worker will.
    """
    from shared.host.clock import SystemClock
    from shared.host.processes import HostIdentity
    from shared.state.store.database import open_database

    with contextlib.suppress(VmBackupError):
        host = configuration.host
        identity = HostIdentity.of_this_machine(host.node, host.state_directory)
        open_database(configuration.nas.state, identity, SystemClock()).publish_view()


def _raise_numbers(configuration: "Configuration") -> None:
    """Commits that claims get numbers above those of all copies.

    What was set aside may have given some out.
    """
    from shared.copies import numbering
    from shared.host.clock import SystemClock
    from shared.host.processes import HostIdentity
    from shared.state.rules import changes
    from shared.state.store.database import open_database

    nas, host = configuration.nas, configuration.host
    floor = numbering.highest(numbering.directories_in((nas.mountpoint, nas.archive)))
    try:
        database = open_database(
            nas.state, HostIdentity.of_this_machine(host.node, host.state_directory), SystemClock()
        )
        if floor > database.head().contents.claims_granted:
            database.commit_once(
                lambda contents: changes.raise_numbers(contents, floor),
                f"claims go on above {floor}",
                "statedb",
            )
    except VmBackupError as error:
        text.warn(
            f"each claim looks for the numbers of its VM's own copies, because this could not "
            f"be noted: {error.message}"
        )


@documented(example="vmbackup-admin statedb migrate", codes=[ExitCode.NO_DATABASE, ExitCode.NAS])
@click.option(
    "--lease-seconds",
    type=click.FloatRange(10, 3600),
    default=300.0,
    show_default=True,
    help="As for `init`.",
)
@json_option
@dry_run_option
@pass_invocation
def migrate(invocation: Invocation, *, lease_seconds: float, as_json: bool, dry_run: bool) -> None:
    """Take over a database of version 1.0 (`vm1:RUNNING` lines). Its files are kept as *.1.0.

    Version 1.0 knows names and states only: each VM is matched to the first host that lists a VM of
    its name. Interrupted, the same command finishes. State files of older scripts (*.state) are
    ignored.
    """
    from shared.copies.archive import require_apart
    from shared.copies.files import NasFiles, modes_for
    from shared.copies.marker import prepare_archive
    from shared.host.clock import SystemClock
    from shared.host.processes import HostIdentity
    from shared.nas.mount import check_nas
    from shared.nas.repository import check_repository
    from shared.state.store.create import migrate as take_over
    from shared.state.store.create import read_old
    from shared.state.store.database import read_version, require_writable

    configuration = invocation.configuration()
    nas, host = configuration.nas, configuration.host
    check_nas(nas, reading=dry_run)
    require_writable(nas.state)
    check_nas(nas, write=not dry_run, reading=dry_run)
    require_apart(nas)
    if dry_run:
        _took_over(read_old(nas.state), as_json=as_json, dry_run=True)
        return
    old = take_over(
        nas.state,
        HostIdentity.of_this_machine(host.node, host.state_directory),
        SystemClock(),
        lease_seconds,
    )
    repository = read_version(nas.state).repository
    check_repository(nas, host.state_directory, repository)
    prepare_archive(NasFiles(modes_for(shared_group=nas.shared_group)), nas, repository)
    _took_over(old, as_json=as_json, dry_run=False)


def _took_over(old: "Mapping[str, State]", *, as_json: bool, dry_run: bool) -> None:
    names = ", ".join(text.printable(name) for name in sorted(old)) or "none"
    states = {name: str(state) for name, state in old.items()}
    answer(
        {"vms": states, "dry_run": dry_run},
        f"{'would take' if dry_run else 'took'} over {len(old)} VMs: {names}",
        as_json=as_json,
    )


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
    from shared.nas.files import nas_error
    from shared.state.records import Contents
    from shared.state.rules import adoption
    from shared.state.store import inspection

    site = invocation.site()
    root = site.database.root
    site.database.publish_view()  # an edit that no worker has met yet is set aside now
    known = inspection.edited_views(root)
    name = (file and Path(file).name) or (known[-1] if known else None)
    if name is None:
        raise UsageError("vmtool-statedb was not edited by hand: there is nothing to adopt")
    if name not in known:
        raise UsageError(
            f"there is no edit {name} in {root}", hint=f"there are: {', '.join(known) or 'none'}"
        )
    edited, doubtful = inspection.edits(root, name)
    for key, state in doubtful.items():
        text.warn(
            f"{text.printable(key)}: {state} was its state just before the edit was found, so "
            f"this line is not taken for an edit"
        )
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
            raise nas_error(error, root) from error
    answer(
        {
            "file": name,
            "changed": {key: {"from": old, "to": new} for key, (old, new) in changed.items()},
            "dry_run": dry_run,
        },
        *(f"{text.printable(key)}: {old} -> {new}" for key, (old, new) in sorted(changed.items())),
        f"{'would adopt' if dry_run else 'adopted'} {name}: {len(changed)} VMs changed",
        as_json=as_json,
    )


@documented(
    example="""
        vmbackup-admin statedb upgrade --dry-run
        vmbackup-admin statedb upgrade
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.NAS],
)
@json_option
@dry_run_option
@pass_invocation
def upgrade(invocation: Invocation, *, as_json: bool, dry_run: bool) -> None:
    """Bring the database into the newest version, when vmbackup is updated on all hosts.

    Until then updated hosts work in the old one, with those that are not. Afterwards older programs
    refuse, and change nothing. Refused (11) while an older program is at work. Interrupted, the
    same command finishes; there is no way back.
    """
    from shared.state.formats import NEWEST
    from shared.state.store import upgrade as upgrading

    site = invocation.site(reading=dry_run)
    site.database.require_writable()
    before = upgrading.state(site.database)
    if before.is_done:
        line = f"the state database is of version {before.generation} already"
    elif dry_run:
        upgrading.require_no_older_program(site.database.head().contents)
        line = f"would upgrade the state database from version {before.generation} to {NEWEST}"
    else:
        upgrading.upgrade(site.database, site.prepare_archive)
        line = f"the state database is of version {NEWEST} now; older programs refuse it"
    after = before.generation if before.is_done else NEWEST
    upgraded = not (before.is_done or dry_run)
    answer(
        {"from": before.generation, "to": after, "upgraded": upgraded, "dry_run": dry_run},
        line,
        as_json=as_json,
    )


def _require_copies(site: "Site", edited: "Mapping[str, State]") -> None:
    """Raises `IllegalMoveError` if a VM is to be CLEAN whose last copy is not there, or is not good: the database alone does not know."""
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


command: Final = click.Group(
    "statedb",
    commands=[check, migrate, upgrade, adopt],
    help="Check, migrate, upgrade or correct the state database itself.",
    context_settings=HELP,
)
