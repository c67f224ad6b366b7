"""filelock's lease on a NAS: a live holder keeps it, and the lease of a host that died is never taken over by filelock itself.

Why the state database has a breaker of its own (`shared.statedb.lease`), and why its safety rests on something else.
"""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.system.nas.conftest import KINDS

pytestmark = pytest.mark.nas("guest")

LEASE_SECONDS = 1.5

HOLD = """
import sys, time, filelock
lease = filelock.SoftFileLease(sys.argv[1], lease_duration=float(sys.argv[2]))
lease.acquire()
print("held", flush=True)
time.sleep(600)
"""

CONTEND = """
import sys, time, filelock
lease = filelock.SoftFileLease(sys.argv[1], lease_duration=float(sys.argv[2]), poll_interval=0.1)
begin = time.monotonic()
try:
    lease.acquire(timeout=4 * float(sys.argv[2]))
except filelock.Timeout:
    print("timeout", flush=True)
else:
    print("acquired", flush=True)
"""


def start(host: str, program: str, path: str) -> "subprocess.Popen[str]":
    """A program on one of the hosts."""
    command = ["nas", "in", host, sys.executable, "-c", program, path, str(LEASE_SECONDS)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], str]]:
    """What a contender on host b says of the lease of host a, by place and by whether the holder lives; all at one time."""
    places = {kind: (f"/mnt/{kind}-a", f"/mnt/{kind}-b") for kind in KINDS}
    local = str(tmp_path_factory.mktemp("local"))
    places["local"] = (local, local)
    cases = [(place, fate) for place in places for fate in ("live", "dead")]
    holders = {(place, fate): start("a", HOLD, f"{places[place][0]}/lease-{fate}") for place, fate in cases}
    try:
        for (_, fate), holder in holders.items():
            assert said(holder) == "held"
            if fate == "dead":
                holder.kill()
        for _, contended in places.values():
            os.listdir(contended)
        contenders = {(place, fate): start("b", CONTEND, f"{places[place][1]}/lease-{fate}") for place, fate in cases}
        yield {case: said(contender) for case, contender in contenders.items()}
    finally:
        for holder in holders.values():
            holder.kill()
            holder.wait()


@pytest.mark.parametrize("place", [*KINDS, "local"])
def test_a_live_holder_keeps_its_lease(answers: dict[tuple[str, str], str], place: str) -> None:
    assert answers[place, "live"] == "timeout"


@pytest.mark.parametrize("kind", KINDS)
def test_a_dead_hosts_lease_is_never_taken_over_on_a_nas(answers: dict[tuple[str, str], str], kind: str) -> None:
    assert answers[kind, "dead"] == "timeout"


def test_a_dead_hosts_lease_is_taken_over_on_a_local_disk(answers: dict[tuple[str, str], str]) -> None:
    assert answers["local", "dead"] == "acquired"
