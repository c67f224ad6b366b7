"""The state database when a host is paused, cut off, or loses power in the middle of its work."""

import sys
import time
import uuid
from collections.abc import Iterator

import pytest

from deploy.testbed.nas.cluster import Cluster
from deploy.testbed.nas.job import Job
from deploy.testbed.nas.kernel import PROJECT
from tests.system.nas_cluster.conftest import KINDS

pytestmark = pytest.mark.nas("cluster")

LEASE_SECONDS = 6

CREATE = """
import sys
from pathlib import Path
from shared.host.clock import SystemClock
from shared.host.host_identity import HostIdentity
from shared.state.store.create import create
create(Path(sys.argv[1]), HostIdentity.of_this_machine("b"), SystemClock(), float(sys.argv[2]))
"""

#: Expires whoever is silent for the lease time, prints what it found, and what the database then
#: says.
RECOVER = """
import sys
from pathlib import Path
from shared.host.clock import SystemClock
from shared.host.host_identity import HostIdentity
from shared.state.sessions import deaths, recovery
from shared.state.store.opening import open_database
database = open_database(Path(sys.argv[1]), HostIdentity.of_this_machine("b"), SystemClock())
rows = deaths.live_sessions(database.head().contents)
dead = deaths.watch_silent(database, rows, database.version.lease_seconds)
recovery.expire(database, dead, "test")
head = database.head().contents
live = deaths.live_sessions(head)
print("expired", len(dead), "live", len(live), "count", head.vms["a"].failures)
"""


class Database:
    """A state database on the NAS, used from both hosts."""

    def __init__(self, lan: Cluster, kind: str) -> None:
        self._lan = lan
        self._root = f"/mnt/{kind}/{uuid.uuid4().hex}"
        self.on_b("-c", CREATE, str(LEASE_SECONDS))

    def on_b(self, option: str, program: str, *arguments: str) -> str:
        """Runs a program on host b to its end."""
        status, output = self._lan["b"].run(
            [sys.executable, option, program, self._root, *arguments],
            environment={"PYTHONPATH": str(PROJECT)},
            timeout_seconds=90,
        )
        assert status == 0, output
        return output

    def work_on_a(self, seconds: float) -> Job:
        """Starts a worker on host a, which commits until its time is over, and waits for its first
        commits.
        """
        command = [
            sys.executable,
            "-m",
            "tests.support.counting",
            self._root,
            "a",
            "a",
            str(seconds),
        ]
        job = self._lan["a"].spawn(
            command, directory=str(PROJECT), environment={"PYTHONPATH": str(PROJECT)}
        )
        job.wait_for("committed\ncommitted\n", 60)
        return job

    def recover(self) -> dict[str, int]:
        """Runs the recovery on host b, and returns its figures."""
        words = self.on_b("-c", RECOVER).split()[-6:]
        return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}


@pytest.fixture(params=KINDS)
def database(lan: Cluster, request: pytest.FixtureRequest) -> Iterator[Database]:
    return Database(lan, request.param)


def check_all_there(job: Job, found: dict[str, int]) -> None:
    """One commit may have arrived of which the worker was not told any more."""
    assert found["count"] - job.output.count("committed\n") in {0, 1}


def test_a_host_that_lost_power_is_expired_and_its_commits_stay(
    lan: Cluster, database: Database
) -> None:
    job = database.work_on_a(240)
    lan["a"].kill()
    try:
        with pytest.raises(TimeoutError), job:
            job.wait(1)  # a machine without power closes no connection; this reads what it had sent
        found = database.recover()
        assert (found["expired"], found["live"]) == (1, 0)
        check_all_there(job, found)
    finally:
        lan["a"].boot()


def test_a_host_that_was_paused_past_its_lease_is_fenced(lan: Cluster, database: Database) -> None:
    with database.work_on_a(240) as job:
        lan["a"].pause()
        found = database.recover()
        assert (found["expired"], found["live"]) == (1, 0)
        before = found["count"]
        lan["a"].resume()
        job.wait_for("fenced", 30)
        assert job.output.split("fenced")[0].count("committed\n") in {before - 1, before}


def test_a_host_that_works_is_left_alone(database: Database) -> None:
    begin = time.monotonic()
    with database.work_on_a(10) as job:
        found = database.recover()
        assert (found["expired"], found["live"]) == (0, 1)
        assert time.monotonic() - begin < 2 * LEASE_SECONDS + 20
        assert job.wait(60) == 0
        assert "fenced" not in job.output
