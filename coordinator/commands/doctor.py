"""`vmbackup-admin doctor`."""

import os
from typing import TYPE_CHECKING

from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.host.errors import ExitCode
from shared.host.printable import one_line
from shared.output import pasteable, print_json, say

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from coordinator.doctor.result import Check
    from shared.host.clock import Clock
    from shared.host.configuration import Configuration
    from shared.nas.mount import NasStatus


@documented(
    example="""
        vmbackup-admin doctor
        vmbackup-admin doctor --json | jq '.checks[] | select(.verdict != "ok")'
    """
)
@json_option
@pass_invocation
def command(invocation: Invocation, *, as_json: bool) -> ExitCode:
    """Examine this host, VirtualBox, the NAS and the database, and say what to mend.

    Run it as the user of the workers, on each host, after setting up and whenever something is odd.
    The NAS is tried out in a directory of its own, which is removed again. Exit code 1 if a check
    fails; warnings do not count.
    """
    checks = []
    for check in examine(invocation):
        checks.append(check)
        if not as_json:
            _print(check)
    failed = sum(check.verdict == "fail" for check in checks)
    warned = sum(check.verdict == "warn" for check in checks)
    if as_json:
        rows = [
            {
                "name": check.name,
                "verdict": check.verdict,
                "seen": check.seen,
                "hint": pasteable(check.hint),
            }
            for check in checks
        ]
        print_json({"schema": 1, "checks": rows, "failed": failed, "warnings": warned})
    else:
        say(f"{len(checks)} checks: {failed} failed, {warned} warnings")
    return ExitCode.FAILURE if failed else ExitCode.DONE


def examine(invocation: Invocation) -> "Iterator[Check]":
    """All checks, in an order in which each can rely on those before it."""
    from coordinator.doctor import engines, host, notify, schedule, unfinished, virtualbox
    from coordinator.doctor.patience import ALL_SECONDS, BoundedRunner
    from coordinator.doctor.result import ANOTHER_USER, Check, guarded, once
    from shared.host.clock import SystemClock
    from shared.host.configuration import find
    from shared.host.errors import ConfigurationError
    from shared.host.processes import SubprocessRunner

    yield host.platform()
    try:
        configuration = invocation.configuration()
    except ConfigurationError as error:
        yield Check("configuration", "fail", error.message, error.hint)
        return
    clock = SystemClock()
    runner = SubprocessRunner()
    bounded = BoundedRunner(runner, clock, ALL_SECONDS)
    for check in guarded(
        "state directory", lambda: host.examine(configuration, find(invocation.config))
    ):
        yield check
        if check.cause == ANOTHER_USER:  # whatever else was seen would be true of that one only
            return
    yield from guarded(
        "VirtualBox",
        lambda: virtualbox.examine(
            configuration.virtualbox,
            configuration.host.state_directory,
            bounded,
            clock,
            os.environ,
        ),
    )
    yield from guarded(
        "engines", lambda: engines.examine(configuration, bounded, clock, os.environ)
    )
    yield from guarded("unfinished", lambda: unfinished.examine(configuration))
    yield from once(_examine_nas(configuration))
    yield from guarded("schedule", lambda: schedule.examine(runner))
    yield from guarded("notify", lambda: notify.examine(configuration))


def _examine_nas(configuration: "Configuration") -> "Iterator[Check]":
    """Mount first: without it nothing there is touched. A foreign NAS is looked at no further."""
    from coordinator.doctor import nas
    from coordinator.doctor.result import Check, failed
    from shared.host.clock import SystemClock
    from shared.host.errors import NoDatabaseError, VmBackupError
    from shared.nas.mount import check_nas
    from shared.nas.repository import check_repository
    from shared.state.store.opening import read_version

    clock = SystemClock()
    try:
        status = check_nas(configuration.nas, reading=True)
    except VmBackupError as error:
        yield failed("NAS", error)
        return
    yield from nas.examine_mount(status, configuration.nas)
    repository, expected, problem = None, None, None
    try:
        settings = read_version(configuration.nas.state)
        repository, expected = settings.repository, settings.primitive
    except NoDatabaseError as error:
        problem = error
    except VmBackupError as error:
        yield failed("database", error)
        return
    try:
        check_repository(configuration.nas, configuration.host.state_directory, repository)
    except VmBackupError as error:  # a foreign NAS is not written to
        yield failed("NAS", error)
        return
    read_only = status.read_only
    if not read_only:  # else nothing there tells more than that
        read_only = yield from _examine_writing(configuration, status, expected, clock)
    if problem is None:
        yield from _examine_database(configuration, clock, read_only=read_only)
    else:
        yield Check("database", "fail", problem.message, problem.hint)


def _examine_writing(
    configuration: "Configuration", status: "NasStatus", expected: str | None, clock: "Clock"
) -> "Generator[Check, None, bool]":
    """Tries out to write there. Returns whether the server's export is read-only."""
    from coordinator.doctor.result import READ_ONLY, guarded

    read_only = False
    for check in guarded("NAS: use", lambda: _examine_use(configuration, clock, expected)):
        read_only = read_only or check.cause == READ_ONLY
        yield check
    yield from guarded(
        "NAS: unchanged data", lambda: _examine_server_copy(configuration, status, clock)
    )
    return read_only


def _examine_database(
    configuration: "Configuration", clock: "Clock", *, read_only: bool
) -> "Iterator[Check]":
    """The database, which is there and the right one, and the archive that belongs to it."""
    from coordinator.doctor import database
    from coordinator.doctor.result import guarded
    from shared.host.host_identity import HostIdentity

    identity = HostIdentity.of_this_machine(
        configuration.host.node, configuration.host.state_directory, make=False
    )
    yield from guarded(
        "database",
        lambda: database.examine(configuration, identity, clock, read_only=read_only),
    )
    if not read_only:
        yield from guarded("NAS: archive", lambda: _examine_archive(configuration, clock))
    yield from guarded("database: holds", lambda: _examine_holds(configuration, clock))


def _examine_use(
    configuration: "Configuration", clock: "Clock", expected: str | None
) -> "Iterator[Check]":
    """Tries out what workers do there, unless a newer program is needed to write there at all."""
    from coordinator.doctor import nas
    from shared.state.store.opening import require_writable

    require_writable(configuration.nas.state)
    yield from nas.examine_use(configuration.nas, clock, expected)


def _examine_server_copy(
    configuration: "Configuration", status: "NasStatus", clock: "Clock"
) -> "Iterator[Check]":
    from coordinator.doctor import server_copy
    from shared.state.store.opening import require_writable

    require_writable(configuration.nas.state)
    yield from server_copy.examine(configuration, status, clock)


def _examine_archive(configuration: "Configuration", clock: "Clock") -> "Iterator[Check]":
    from coordinator.doctor import archive
    from shared.site import open_site

    yield from archive.examine(open_site(configuration, clock))


def _examine_holds(configuration: "Configuration", clock: "Clock") -> "Iterator[Check]":
    from coordinator.doctor import unfinished
    from shared.site import open_site

    yield from unfinished.examine_holds(open_site(configuration, clock, reading=True))


def _print(check: "Check") -> None:
    mark = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}[check.verdict]
    say(f"{mark}  {check.name}: {one_line(check.seen)}")
    if check.hint and check.verdict != "ok":
        say(f"      -> {pasteable(check.hint)}")
