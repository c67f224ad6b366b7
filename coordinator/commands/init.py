"""`vmbackup-admin init`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coordinator.options import FiniteRange
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.host.errors import ExitCode, LockedError
from shared.output import answer

if TYPE_CHECKING:
    from shared.host.configuration import Configuration
    from shared.state.store.version import DatabaseVersion


@documented(
    example="""
        NAS_MOUNTPOINT=/mnt/nas vmbackup-admin init
        vmbackup-admin init --lease-seconds 120
    """,
    codes=[ExitCode.LOCKED, ExitCode.NAS],
)
@click.option(
    "--lease-seconds",
    type=FiniteRange(10, 3600),
    default=300.0,
    show_default=True,
    help=(
        "How long a worker may be silent before others take over. Shorter: sooner after a "
        "crash, less patient with a slow NAS."
    ),
)
@json_option
@dry_run_option
@pass_invocation
def command(invocation: Invocation, *, lease_seconds: float, as_json: bool, dry_run: bool) -> None:
    """Make a new state database on the NAS: once, on any one host.

    Refused where there is one already, and in the NAS or the archive of another one; what an
    interrupted one has left is finished. How the NAS can be written to safely is tried out, not
    guessed, and noted for all hosts. Copies that are there already stay, and new ones get numbers
    above theirs. The archive directory is made, too. Each host then only needs the configuration
    and a schedule: its VMs are found by `vmbackup-worker vmfind`.
    """
    from shared.copies.archive_location import prove_apart, refuse_copies_on_top
    from shared.copies.archive_marker import refuse_archive, refuse_nas, require_ours_or_new
    from shared.nas.mount import check_nas
    from shared.nas.repository import check_repository, known_repository
    from shared.nas.spelling import require_names_kept
    from shared.state.store.opening import require_writable

    configuration = invocation.configuration()
    nas, host = configuration.nas, configuration.host
    check_nas(nas)
    require_writable(nas.state)
    present = _repository(nas.state)
    if present is not None:
        if not dry_run:
            _finish(configuration)
        raise LockedError(
            f"there already is a state database in {nas.state}",
            hint="vmbackup-admin status shows what is in it",
        )
    refuse_copies_on_top(nas)
    refuse_archive(nas, above=True)
    refuse_nas(nas)
    require_ours_or_new(nas, None)
    if known_repository(nas, host.state_directory) is not None:
        check_repository(nas, host.state_directory, None)
    if not dry_run:
        prove_apart(nas)
        require_names_kept(nas.mountpoint)
    if dry_run:
        planned = {"state": str(nas.state), "archive": str(nas.archive), "dry_run": True}
        answer(
            planned,
            f"would make a state database in {nas.state} and the archive directory {nas.archive}",
            as_json=as_json,
        )
        return
    _tell(configuration, _make(configuration, lease_seconds), as_json=as_json)


def _tell(configuration: "Configuration", made: "DatabaseVersion", *, as_json: bool) -> None:
    nas = configuration.nas
    answer(
        {
            "state": str(nas.state),
            "archive": str(nas.archive),
            "dry_run": False,
            "repository": made.repository,
            "primitive": made.primitive,
        },
        (
            f"made the state database {made.repository} in {nas.state} (generations by "
            f"{made.primitive})"
        ),
        "next: `vmbackup-admin doctor`, then `vmbackup-worker run` by cron on each host; "
        f"{configuration.host.node} is this one",
        as_json=as_json,
    )


def _make(configuration: "Configuration", lease_seconds: float) -> "DatabaseVersion":
    """Makes the database and the archive directory."""
    from shared.copies import claim_numbers
    from shared.copies.archive_marker import prepare_archive
    from shared.copies.copy_files import NasFiles, modes_for
    from shared.host.clock import SystemClock
    from shared.host.host_identity import HostIdentity
    from shared.nas.repository import check_repository
    from shared.state.store.create import create

    nas, host = configuration.nas, configuration.host
    floor = claim_numbers.highest_claim(claim_numbers.directories_in((nas.mountpoint, nas.archive)))
    identity = HostIdentity.of_this_machine(host.node, host.state_directory)
    database = create(nas.state, identity, SystemClock(), lease_seconds, floor=floor)
    check_repository(nas, host.state_directory, database.version.repository)
    prepare_archive(
        NasFiles(modes_for(shared_group=nas.shared_group)), nas, database.version.repository
    )
    database.keep_reserve(nas.reserve)
    database.keep_readable(configuration.state.readable)
    return database.version


def _finish(configuration: "Configuration") -> None:
    """What an `init` that was killed may not have come to: the archive.

    A database that has been used since has an archive, and gets no other one: it is trusted as
    every command trusts it, or refused.
    """
    from shared.copies.archive_location import prove_apart
    from shared.copies.archive_marker import prepare_archive
    from shared.host.clock import SystemClock
    from shared.site import open_site

    site = open_site(configuration, SystemClock())
    if site.database.head().generation > 1:
        _ = site.archive
        prove_apart(configuration.nas)
        site.prepare_archive()
    else:
        prove_apart(configuration.nas)
        prepare_archive(site.files, configuration.nas, site.database.version.repository)


def _repository(state: Path) -> str | None:
    """That of the database that is there.

    None if there is none, or one whose making was interrupted.
    """
    from shared.nas.nas_errors import nas_error
    from shared.nas.reading import list_fresh
    from shared.state.store.opening import read_version

    try:
        return read_version(state).repository if list_fresh(state / "gen") else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise nas_error(error, f"use the state database in {state}") from error
