"""Workers on three hosts commit to one state database at the same time, and are stopped and killed
meanwhile: nothing is lost.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shared.host.clock import SystemClock
from shared.host.host_identity import HostIdentity
from shared.state.store.create import create
from shared.state.store.opening import open_database
from shared.state.store.readable_view import render
from shared.state.store.snapshot import Snapshot
from tests.system.nas.conftest import HOSTS, Share

pytestmark = pytest.mark.nas("guest")

LEASE_SECONDS = 5.0
WORK_SECONDS = 5.0

#: SMB refuses to rename over a file that another host has open, or had a second ago: the view may
#: stay behind until the next tick.
VIEW_BEHIND = "vmtool-statedb is behind"


@dataclass
class Worker:
    """One worker, started again after it was killed."""

    host: str
    root: str
    label: str
    options: tuple[str, ...] = ()
    committed: int = 0
    errors: list[str] = field(default_factory=list)
    _process: "subprocess.Popen[str] | None" = None
    _readers: list[threading.Thread] = field(default_factory=list)

    def start(self, seconds: float) -> None:
        program = [
            sys.executable,
            "-m",
            "tests.support.counting",
            self.root,
            self.host,
            self.label,
            str(seconds),
            *self.options,
        ]
        self._process = subprocess.Popen(
            ["nas", "in", self.host, *program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        reader = threading.Thread(target=self._read, args=(self._process,))
        reader.start()
        self._readers.append(reader)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        with process.stdout:
            for line in process.stdout:
                if line == "committed\n":
                    self.committed += 1
                elif line != "fenced\n" and not (
                    self.root.startswith("/mnt/smb") and line.startswith(VIEW_BEHIND)
                ):
                    self.errors.append(line)

    def signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def finish(self) -> None:
        assert self._process
        self._process.wait(200)
        for reader in self._readers:
            reader.join(10)

    def kill(self) -> None:
        assert self._process
        self._process.kill()
        self._process.wait(10)


def disturb(workers: list[Worker], seconds: float, choose: random.Random) -> None:
    """Stops workers for longer than the lease on the database, and kills some, until the time is
    over.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(choose.uniform(0.1, 0.6))
        victim = choose.choice(workers)
        if choose.random() < 0.5:
            victim.signal(signal.SIGSTOP)
            time.sleep(choose.uniform(0.2, 1.5))
            victim.signal(signal.SIGCONT)
        else:
            victim.kill()
            victim.start(max(1.0, end - time.monotonic()))


def head_after_tick(root: str, host: str) -> Snapshot:
    """What a later worker finds, after it has repaired the view as every worker does.

    Files held open are let go of by then.
    """
    time.sleep(1.5 if root.startswith("/mnt/smb") else 0)
    database = open_database(Path(root), HostIdentity.of_this_machine(host), SystemClock())
    if root.startswith("/mnt/smb"):
        database.publish_view()
    return database.head()


def check(workers: list[Worker], root: str) -> None:
    """Every commit that a worker was told of is in the state that every host reads, and nothing was
    done twice.
    """
    errors = "".join(line for worker in workers for line in worker.errors)
    assert not errors, errors[-4000:]
    snapshot = head_after_tick(root, "a")
    counts = {worker.label: snapshot.contents.vms[worker.label].failures for worker in workers}
    assert all(counts[worker.label] >= worker.committed > 0 for worker in workers), (
        counts,
        workers,
    )
    assert snapshot.contents.claims_granted == sum(counts.values())
    with open(os.path.join(root, "vmtool-statedb"), "rb") as view:
        assert view.read() == render(snapshot.contents)


@pytest.fixture(params=["calm", "disturbed"])
def disturbed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "disturbed")


def run(roots: dict[str, str], *, disturbed: bool) -> None:
    """Two workers on each host.

    One that waits for the lease on the database, and one that does not and collides with the
    others.
    """
    root = roots["a"]
    create(Path(root), HostIdentity.of_this_machine("a"), SystemClock(), LEASE_SECONDS)
    workers = [
        Worker(host, roots[host], f"{host}-{name}", options)
        for host in roots
        for name, options in (("patient", ()), ("rash", ("no-lease",)))
    ]
    try:
        for worker in workers:
            worker.start(WORK_SECONDS)
        if disturbed:
            disturb(workers, WORK_SECONDS, random.Random(1))
        for worker in workers:
            worker.finish()
    finally:
        for worker in workers:
            worker.kill()
    check(workers, root)


def test_no_commit_is_lost(share: Share, disturbed: bool) -> None:
    os.listdir(share.on("b"))
    run({host: share.on(host, "vmstate") for host in HOSTS}, disturbed=disturbed)


def test_no_commit_is_lost_when_hosts_use_different_versions_of_nfs() -> None:
    name = f"mixed-{os.getpid()}"
    os.mkdir(f"/mnt/nfs-a/{name}")
    run({"a": f"/mnt/nfs-a/{name}/vmstate", "b": f"/mnt/nfs3-b/{name}/vmstate"}, disturbed=True)
