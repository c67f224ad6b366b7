"""`vmbackup-admin statedb migrate`."""

from typing import TYPE_CHECKING

import click

from coordinator.options import FiniteRange
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.host.errors import ExitCode
from shared.output import answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.state.states import State


@documented(example="vmbackup-admin statedb migrate", codes=[ExitCode.NO_DATABASE, ExitCode.NAS])
@click.option(
    "--lease-seconds",
    type=FiniteRange(10, 3600),
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
    from shared.copies.archive_location import require_apart
    from shared.copies.archive_marker import prepare_archive
    from shared.copies.copy_files import NasFiles, modes_for
    from shared.host.clock import SystemClock
    from shared.host.host_identity import HostIdentity
    from shared.nas.mount import check_nas
    from shared.nas.repository import check_repository
    from shared.state.store.migration import migrate as take_over
    from shared.state.store.migration import read_old
    from shared.state.store.opening import open_database, require_writable

    configuration = invocation.configuration()
    nas, host = configuration.nas, configuration.host
    check_nas(nas, reading=dry_run)
    require_writable(nas.state)
    old = read_old(nas.state)  # before a trial to write, which would blame the NAS if there is none
    check_nas(nas, write=not dry_run, reading=dry_run)
    require_apart(nas)
    if dry_run:
        _took_over(old, as_json=as_json, dry_run=True)
        return
    identity, clock = HostIdentity.of_this_machine(host.node, host.state_directory), SystemClock()
    old = take_over(nas.state, identity, clock, lease_seconds)
    database = open_database(nas.state, identity, clock)
    database.keep_reserve(nas.reserve)
    repository = database.version.repository
    check_repository(nas, host.state_directory, repository)
    prepare_archive(NasFiles(modes_for(shared_group=nas.shared_group)), nas, repository)
    _took_over(old, as_json=as_json, dry_run=False)


def _took_over(old: "Mapping[str, State]", *, as_json: bool, dry_run: bool) -> None:
    names = ", ".join(sorted(old)) or "none"
    states = {name: str(state) for name, state in old.items()}
    answer(
        {"vms": states, "dry_run": dry_run},
        f"{'would take' if dry_run else 'took'} over {len(old)} VMs: {names}",
        as_json=as_json,
    )
