"""`vmbackup-admin statedb check`."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coordinator import text
from coordinator.options import FiniteRange
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.host.errors import ExitCode, UsageError, VmBackupError
from shared.output import pasteable, print_json, say, warn

if TYPE_CHECKING:
    from shared.host.configuration import Configuration
    from shared.state.store.inspection import Inspection


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
    type=FiniteRange(10, 3600),
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
    from shared.state.store import inspection

    if lease_seconds is not None and not rebuild_version:
        raise UsageError("--lease-seconds goes with --rebuild-version")
    configuration = invocation.configuration()
    root = configuration.nas.state
    check_nas(configuration.nas, reading=set_aside is None and not rebuild_version)
    if set_aside is not None:
        _set_aside(configuration, set_aside)
    if rebuild_version:
        _rebuild_version(root, lease_seconds)
    try:
        found = inspection.inspect(
            root, lambda done, total: text.progress(f"generation {done} of {total}")
        )
    finally:
        text.progress("")
    if as_json:
        print_json(_document(found))
    else:
        _tell(found)
    return ExitCode.FAILURE if found.findings else ExitCode.DONE


def _set_aside(configuration: "Configuration", number: int) -> None:
    from shared.state.store import repair

    place = repair.set_aside(configuration.nas.state, number)
    warn(
        f"generation {number} was moved to {place}; what only it said is lost, and the "
        f"workers concerned do their work again"
    )
    warn(
        "a host that says that the history was rolled back had seen it: `vmbackup-admin "
        "statedb accept` there"
    )
    _repair_view(configuration)
    _raise_numbers(configuration)


def _rebuild_version(root: Path, lease_seconds: float | None) -> None:
    from shared.state.store import repair

    settings = repair.rebuild_version(root, lease_seconds)
    warn(
        f"wrote vmtool-db-version: repository {settings.repository}, lease "
        f"{settings.lease_seconds:g} s, {settings.primitive}"
    )


def _document(found: "Inspection") -> dict[str, Any]:
    """For `--json`."""
    return {
        "schema": 1,
        "generations": found.generations,
        "oldest": found.oldest,
        "head": found.head.generation if found.head else None,
        "bundles": found.bundles,
        "removed": dict(found.anchor.to_json()) if found.anchor else None,
        "findings": [
            {"what": finding.what, "hint": pasteable(finding.hint)} for finding in found.findings
        ],
    }


def _tell(found: "Inspection") -> None:
    """For people."""
    for finding in found.findings:
        say(f"WRONG: {finding.what}")
        say(f"       {pasteable(finding.hint)}")
    head = found.head.generation if found.head else None
    count = text.counted(len(found.findings), "finding")
    say(
        f"{found.generations} generations, from {found.oldest} to {found.newest}; newest "
        f"good one: {head}; {count if found.findings else 'everything is in order'}"
    )
    if found.anchor:
        anchor = found.anchor
        say(
            f"Up to {anchor.number} they were removed for their age, by {anchor.node} on "
            f"{text.local(anchor.when)} (state.history_days)."
        )


def _repair_view(configuration: "Configuration") -> None:
    """Writes `vmtool-statedb` for the generation that is the newest now.

    While the version file is damaged, a worker will.
    """
    from shared.host.clock import SystemClock
    from shared.host.host_identity import HostIdentity
    from shared.state.store.opening import open_database

    with contextlib.suppress(VmBackupError):
        host = configuration.host
        identity = HostIdentity.of_this_machine(host.node, host.state_directory)
        open_database(configuration.nas.state, identity, SystemClock()).publish_view()


def _raise_numbers(configuration: "Configuration") -> None:
    """Commits that claims get numbers above those of all copies.

    What was set aside may have given some out.
    """
    from shared.copies import claim_numbers
    from shared.host.clock import SystemClock
    from shared.host.host_identity import HostIdentity
    from shared.state.rules import claims
    from shared.state.store.opening import open_database

    nas, host = configuration.nas, configuration.host
    floor = claim_numbers.highest_claim(claim_numbers.directories_in((nas.mountpoint, nas.archive)))
    try:
        database = open_database(
            nas.state, HostIdentity.of_this_machine(host.node, host.state_directory), SystemClock()
        )
        if floor > database.head().contents.claims_granted:
            database.commit_once(
                lambda contents: claims.raise_numbers(contents, floor),
                f"claims go on above {floor}",
                "statedb",
            )
    except VmBackupError as error:
        warn(
            f"each claim looks for the numbers of its VM's own copies, because this could not "
            f"be noted: {error.message}"
        )
