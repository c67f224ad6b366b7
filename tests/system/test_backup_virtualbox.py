"""The main job on real VirtualBox hosts.

Found, exported, CLEAN, and what happens when things change.
"""

import os
import signal
import subprocess

import psutil
import pytest

from tests.support.fleet import Fleet
from tests.support.virtualbox import stopped
from tests.support.waiting import wait_for

pytestmark = pytest.mark.virtualbox


def is_exported(fleet: Fleet) -> bool:
    """Whether a copy of the large VM is being written."""
    return list(fleet.nas.glob("large/.*.partial.ova")) != []


def test_two_hosts_back_up_at_the_same_time_and_their_copies_can_be_imported(fleet: Fleet) -> None:
    first, second = fleet.members.values()
    web, running = first.host.make_vm("web: 01/ü"), first.host.make_vm("runs")
    second.host.make_vm("db")
    running.start()

    ticks = [
        member.start("vmbackup-worker", "-v", "run") for member in (first, second, first, second)
    ]
    outputs = [tick.communicate(timeout=120)[0] for tick in ticks]
    first.worker("run", expect=4)  # the first tick may have looked before the VM was found
    second.worker("run")

    assert fleet.states() == {"web: 01/ü": "CLEAN", "runs": "RUNNING", "db": "CLEAN"}, outputs
    assert (
        fleet.nas / "vmstate" / "vmtool-statedb"
    ).read_text() == "db:CLEAN\nruns:RUNNING\nweb%3A 01/ü:CLEAN\n"
    assert [len(fleet.copies(key)) for key in ("web: 01/ü", "db")] == [1, 1]
    assert fleet.litter() == []
    (copy,) = fleet.copies("web: 01/ü")
    listing = subprocess.run(
        ["sha256sum", "-c", f"{copy.stamp}.sha256"],
        cwd=copy.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert listing.returncode == 0, listing.stderr
    second.host.run(
        "import",
        copy.directory / f"{copy.stamp}.ova",
        "--vsys",
        "0",
        "--vmname",
        "restored",
        "--basefolder",
        second.host.vms,
    )
    assert web.counter() == 0

    running.stop()
    first.worker("run")
    assert fleet.states()["runs"] == "CLEAN"


def test_a_vm_that_was_used_is_backed_up_again_and_an_untouched_one_is_not(fleet: Fleet) -> None:
    first, _ = fleet.members.values()
    vm = first.host.make_vm("web01")
    first.worker("run")
    before = fleet.head().generation
    first.worker("run")
    assert fleet.head().generation == before, "an idle tick commits nothing"

    for number in (2, 3):
        vm.start()
        vm.stop()
        first.worker("run")
        assert fleet.states()["web01"] == "CLEAN"
        assert fleet.record("web01").last_copy.claim == number  # type: ignore[union-attr]
    assert [copy.claim for copy in fleet.copies("web01")] == [2, 3], (
        "the copy and the one before it are kept"
    )


@pytest.mark.parametrize("engine", ["vboxmanage", "parallel"])
def test_a_worker_that_is_terminated_cancels_its_export_and_leaves_nothing(
    fleet: Fleet, engine: str
) -> None:
    first, _ = fleet.members.values()
    first.configure("backup", engine=engine)
    vm = first.host.make_vm("large", mib=400, random_mib=300)
    first.worker("vmfind")
    first.worker("notifier")
    worker = first.start("vmbackup-worker", "-v", "backup")
    with stopped(worker, lambda: is_exported(fleet), "the export begins"):
        worker.terminate()
    output = worker.communicate(timeout=60)[0]

    assert worker.returncode == 143, output
    assert fleet.states() == {"large": "BACKUP_NECESSARY"}
    assert fleet.litter() == []
    wait_for(
        lambda: (
            "State:          created" in first.host.run("showmediuminfo", "disk", vm.disk).stdout
        ),
        "VirtualBox to let go of it",
    )
    vm.start()
    vm.stop()


@pytest.mark.parametrize(
    ("engine", "what"),
    [("vboxmanage", "worker"), ("vboxmanage", "worker and VBoxManage"), ("parallel", "worker")],
)
def test_a_worker_that_is_killed_is_recovered_by_the_next_tick(
    fleet: Fleet, engine: str, what: str
) -> None:
    first, _ = fleet.members.values()
    first.configure("backup", engine=engine)
    first.host.make_vm("large", mib=400, random_mib=300)
    first.worker("vmfind")
    first.worker("notifier")
    worker = first.start("vmbackup-worker", "-v", "backup")
    wait_for(lambda: list(fleet.nas.glob("large/.*.partial.ova")) != [], "the export to begin")
    wait_for(
        lambda: any(b'"child"' in beat.read_bytes() for beat in fleet.nas.glob("vmstate/node/*")),
        "a heartbeat that names the export",
    )
    exports = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "export" in (process.info["cmdline"] or [])
    ]
    children = [
        process
        for process in exports
        if any(str(fleet.nas) in word for word in process.info["cmdline"])
    ]
    assert bool(children) == (engine == "vboxmanage")
    os.kill(worker.pid, signal.SIGKILL)
    if what != "worker":
        for child in children:
            child.kill()
    worker.communicate(timeout=30)
    assert fleet.states() == {"large": "BACKUP_IN_PROGRESS"}
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive, "an export ends with its worker"

    said = first.worker("database").stderr
    assert "cancelling the export that session" not in said, said
    assert fleet.states() == {"large": "BACKUP_NECESSARY"}
    first.configure("backup", retry_seconds=60)
    first.worker("backup")
    assert fleet.states() == {"large": "CLEAN"}
    first.worker("database")
    assert fleet.litter() == []
