"""Who tells an event, where two hosts see it at once on real NFS and SMB mounts."""

import sys
import uuid
from collections.abc import Iterator

import pytest

from deploy.testbed.nas.cluster import Cluster
from deploy.testbed.nas.job import Job
from deploy.testbed.nas.kernel import PROJECT
from tests.system.nas_cluster.conftest import KINDS

pytestmark = pytest.mark.nas("cluster")

#: Makes a database that knows the VM of which the tellers tell.
_CREATE = """
import sys
from pathlib import Path
from shared.host.clock import SystemClock
from shared.host.host_identity import HostIdentity
from shared.state.records import VmRecord
from shared.state.states import State
from shared.state.store.create import create
from shared.state.store.opening import open_database
root, identity, clock = Path(sys.argv[1]), HostIdentity.of_this_machine("b"), SystemClock()
create(root, identity, clock, 6.0)
when = "2026-11-22T20:38:00Z"
record = VmRecord("web01", "web01", "uuid", "b", "web01", State.NEW, found=when)
open_database(root, identity, clock).commit_once(lambda found: found.with_vm(record), "", "test")
"""

#: Expires whoever is silent for the lease time, as the database worker does.
_EXPIRE = """
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
print("expired", len(dead))
"""


class Tellers:
    """A database on the NAS, and programs on both hosts that tell of its VM."""

    def __init__(self, lan: Cluster, kind: str) -> None:
        self._lan = lan
        self._root = f"/mnt/{kind}/{uuid.uuid4().hex}"
        self._on_b(_CREATE)

    def _on_b(self, program: str) -> str:
        status, output = self._lan["b"].run(
            [sys.executable, "-c", program, self._root],
            environment={"PYTHONPATH": str(PROJECT)},
            timeout_seconds=90,
        )
        assert status == 0, output
        return output

    def expire(self) -> str:
        """Declares the sessions dead that are silent."""
        return self._on_b(_EXPIRE)

    def start(self, host: str, times: int, *seconds: str) -> Job:
        """Starts a teller, see `tests.support.tellers`."""
        words = ["-m", "tests.support.tellers", self._root, host, str(times), *seconds]
        return self._lan[host].spawn(
            [sys.executable, *words],
            directory=str(PROJECT),
            environment={"PYTHONPATH": str(PROJECT)},
        )

    def tell(self, host: str) -> list[str]:
        """Runs one to its end: what it has sent."""
        with self.start(host, 1) as job:
            return ended(job)


def ended(job: Job) -> list[str]:
    """What a teller has sent that comes to its end."""
    assert job.wait(90) == 0, job.output
    *sent, last = job.output.splitlines()
    assert last == "done", job.output
    return sent


@pytest.fixture(params=KINDS)
def tellers(lan: Cluster, request: pytest.FixtureRequest) -> Iterator[Tellers]:
    return Tellers(lan, request.param)


def test_two_hosts_that_tell_at_once_send_one_message_to_each_target(tellers: Tellers) -> None:
    with tellers.start("a", 3) as one, tellers.start("b", 3) as other:
        assert sorted(ended(one) + ended(other)) == ["sent chat", "sent mail"]


def test_a_teller_that_is_killed_while_it_sends_is_followed_by_another_host(
    tellers: Tellers,
) -> None:
    with tellers.start("a", 1, "300") as job:
        job.wait_for("sent mail\n", 60)
    assert tellers.tell("b") == ["sent chat"], "whoever may still send is waited for"
    assert tellers.expire().split()[-2:] == ["expired", "1"]
    assert tellers.tell("b") == ["sent mail"], "whether it arrived, nobody knows"
    assert tellers.tell("b") == []
