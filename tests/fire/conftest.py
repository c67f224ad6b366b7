"""Real VirtualBox hosts on a NAS that can be filled up, and the table of what they survived."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fire.range import DISK_MIB, NAS_MIB, Range, Tally, Target
from tests.support.fleet import Fleet
from tests.support.virtualbox import RealHost, RealVm, Testbed

SEED = int(os.environ.get("VMBACKUP_PROVE_SEED", "1"))
HOSTS = 2
#: The name under which a test reports a round; reports reach the process that prints the table,
#: wherever the test ran.
ROUND = "fire"


@pytest.fixture(scope="module")
def field(virtualbox_testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Range]:
    """Hosts with one VM and one copy each; the NAS is a file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("a NAS of limited size has to be mounted, which needs root")
    folder = tmp_path_factory.mktemp("fire")
    fleet = Fleet(folder)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={NAS_MIB}m,mode=0755", "vmbackup-fire", fleet.nas],
        check=True,
    )
    hosts: list[RealHost] = []
    try:
        yield Range(
            fleet,
            [_target(virtualbox_testbed, fleet, hosts, number) for number in range(HOSTS)],
            SEED,
        )
    finally:
        for host in hosts:
            host.remove()
        _unmount(fleet.nas)


def _target(testbed: Testbed, fleet: Fleet, hosts: list[RealHost], number: int) -> Target:
    hosts.append(testbed.host())
    member = fleet.add(hosts[-1])
    vm = member.host.make_vm(f"vm{number}", mib=DISK_MIB + 8, random_mib=DISK_MIB)
    assert isinstance(vm, RealVm)
    for worker in ("vmfind", "notifier", "backup"):
        member.worker(worker)
    return Target(member, vm)


def _unmount(place: Path) -> None:
    subprocess.run(["umount", "--lazy", place], check=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table: what was done, how often, what survived."""
    tally = Tally()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, value in report.user_properties:
                    if name == ROUND:
                        what, engine, status, survived = value.split("|")
                        tally.add(what, engine, int(status), survived=survived == "survived")
    if tally.done:
        terminalreporter.section("VirtualBox under fire")
        for line in tally.lines():
            terminalreporter.write_line(line)
