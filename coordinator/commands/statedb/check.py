"""`vmbackup-admin statedb check`."""

import contextlib
from typing import TYPE_CHECKING

import click

from coordinator import text
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.host.errors import ExitCode, VmBackupError
from shared.output import pasteable, print_json, say, warn

if TYPE_CHECKING:
    from shared.host.configuration import Configuration


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
        warn(
            f"generation {set_aside} was moved to {place}; what only it said is lost, and the "
            f"workers concerned do their work again"
        )
        warn(
            "a host that says that the history was rolled back had seen it: `vmbackup-admin "
            "statedb accept` there"
        )
        _repair_view(configuration)
        _raise_numbers(configuration)
    if rebuild_version:
        settings = repair.rebuild_version(root, lease_seconds)
        warn(
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
        findings = [
            {"what": finding.what, "hint": pasteable(finding.hint)} for finding in found.findings
        ]
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
            say(f"WRONG: {finding.what}")
            say(f"       {pasteable(finding.hint)}")
        state = (
            "everything is in order" if not found.findings else f"{len(found.findings)} findings"
        )
        say(
            f"{found.generations} generations, from {found.oldest} to {found.newest}; newest "
            f"good one: {head}; {state}"
        )
    return ExitCode.FAILURE if found.findings else ExitCode.DONE


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
    from shared.copies import catalogue
    from shared.host.clock import SystemClock
    from shared.host.host_identity import HostIdentity
    from shared.state.rules import claims
    from shared.state.store.opening import open_database

    nas, host = configuration.nas, configuration.host
    floor = catalogue.highest_claim(catalogue.directories_in((nas.mountpoint, nas.archive)))
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
