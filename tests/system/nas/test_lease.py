"""filelock's lease on a NAS.

A live holder keeps it, and the lease of a host that died is never taken over by filelock itself.

Why the state database has a breaker of its own (`shared.state.store.lease`), and why its safety
rests on something else.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.system.nas.conftest import KINDS

pytestmark = pytest.mark.nas("guest")

LEASE_SECONDS = 1.5

HOLD = """
import sys, time, filelock
leases = [filelock.SoftFileLease(path, lease_duration=float(sys.argv[1])) for path in sys.argv[2:]]
for lease in leases:
    lease.acquire(timeout=20)
print("held", flush=True)
time.sleep(100)
"""

CONTEND = """
import json, sys, threading, filelock
duration = float(sys.argv[1])
answers = {}
def contend(path):
    try:
        lease = filelock.SoftFileLease(path, lease_duration=duration, poll_interval=0.1)
        lease.acquire(timeout=4 * duration)
        answers[path] = "acquired"
    except filelock.Timeout:
        answers[path] = "timeout"
threads = [threading.Thread(target=contend, args=(path,)) for path in sys.argv[2:]]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(answers), flush=True)
"""


def start(host: str, program: str, paths: list[str]) -> "subprocess.Popen[str]":
    """A program on one of the hosts."""
    command = ["nas", "in", host, sys.executable, "-c", program, str(LEASE_SECONDS), *paths]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.fixture(scope="module")
def answers() -> Iterator[dict[str, str]]:
    """What contenders on host b say of leases of host a, all at one time.

    By `<place>-live` and `<place>-dead`.
    """
    with tempfile.TemporaryDirectory(
        dir="/dev/shm"
    ) as local:  # the guest's root cannot exchange names either
        places = {**{f"/mnt/{kind}-a": f"/mnt/{kind}-b" for kind in KINDS}, local: local}
        names = dict(
            zip(places, [*KINDS, "local"], strict=True)
        )  # NFS 3 and NFS 4 show one and the same directory: distinct names
        live, dead = (
            start("a", HOLD, [f"{place}/{names[place]}-{fate}" for place in places])
            for fate in ("live", "dead")
        )
        with live, dead:
            assert (said(live), said(dead)) == ("held", "held")
            dead.kill()
            for contended in places.values():
                os.listdir(contended)
            paths = [
                f"{contended}/{names[place]}-{fate}"
                for place, contended in places.items()
                for fate in ("live", "dead")
            ]
            with start("b", CONTEND, paths) as contender:
                answers = json.loads(said(contender))
            yield {os.path.basename(path): answer for path, answer in answers.items()}
            live.kill()


@pytest.mark.parametrize("place", [*KINDS, "local"])
def test_a_live_holder_keeps_its_lease(answers: dict[str, str], place: str) -> None:
    assert answers[f"{place}-live"] == "timeout"


@pytest.mark.parametrize("kind", KINDS)
def test_a_dead_hosts_lease_is_never_taken_over_on_a_nas(
    answers: dict[str, str], kind: str
) -> None:
    assert answers[f"{kind}-dead"] == "timeout"


def test_a_dead_hosts_lease_is_taken_over_on_a_local_disk(answers: dict[str, str]) -> None:
    assert answers["local-dead"] == "acquired"
