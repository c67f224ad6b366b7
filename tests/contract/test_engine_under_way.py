"""What happens to a real VM, and to its copy, while the parallel engine reads its disks."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.export.description import take_description
from shared.export.parallel import ParallelExport
from shared.ova.compression import Codec, best_codec
from shared.virtualbox.export_errors import ExportCanceledError, ExportError, VmRunsError
from tests.contract.engine_vms import Bench
from tests.contract.exporting import medium_state
from tests.support.virtualbox import RealVm
from tests.support.waiting import ended, wait_for

pytestmark = pytest.mark.virtualbox


@pytest.fixture
def vm(bench: Bench, request: pytest.FixtureRequest) -> RealVm:
    return bench.host.make_vm(request.node.name.removeprefix("test_")[:40], mib=16, random_mib=8)


class Pausing:
    """An export that stops in the middle of the disk until it is told to go on."""

    def __init__(self, bench: Bench, vm: RealVm, target: Path) -> None:
        best, count = best_codec(), [0]
        self._reached, self._go = threading.Event(), threading.Event()

        def compress(data: bytes) -> bytes:
            count[0] += 1
            if count[0] == 40:
                self._reached.set()
                self._go.wait(60)
            return best.compress(data)

        self.target = target
        self.export: ParallelExport = bench.parallel(
            Codec("pausing", compress, best.decompress)
        ).start(bench.machine(vm.uuid), target)
        assert self._reached.wait(60), self.export.result()

    def go_on(self) -> ParallelExport:
        self._go.set()
        ended(self.export)
        return self.export


@pytest.fixture
def pause(bench: Bench, vm: RealVm) -> Iterator[Callable[[], Pausing]]:
    made: list[Pausing] = []

    def begin() -> Pausing:
        made.append(Pausing(bench, vm, bench.host.folder / f"{vm.uuid}.ova"))
        return made[-1]

    yield begin
    for export in made:
        export.export.cancel(0)
        export.go_on()


def is_free(bench: Bench, vm: RealVm) -> None:
    """Nothing of the engine is left: the VM starts, its snapshots can be deleted."""
    disk = vm.info("SATA-0-0")
    wait_for(
        lambda: medium_state(bench.host, disk) == "created",
        "VirtualBox to notice that the lock is gone",
    )
    vm.start()
    vm.stop()


def test_the_vm_cannot_be_started_changed_or_deleted_meanwhile(
    bench: Bench, vm: RealVm, pause: Callable[[], Pausing]
) -> None:
    bench.host.run("snapshot", vm.uuid, "take", "before")
    export = pause()
    leaf = vm.info("SATA-0-0")
    assert [medium_state(bench.host, disk) for disk in (leaf, vm.disk)] == ["locked read"] * 2
    for words in (
        ["startvm", vm.uuid, "--type=headless"],
        ["snapshot", vm.uuid, "delete", "before"],
        ["modifymedium", "disk", leaf, "--compact"],
        ["modifymedium", "disk", leaf, "--resize=64"],
        ["closemedium", "disk", leaf, "--delete"],
    ):
        assert bench.host.run(*words, check=False).returncode == 1, words
    export.go_on().result()
    assert export.target.exists()
    is_free(bench, vm)
    bench.host.run("snapshot", vm.uuid, "delete", "before")


def test_a_snapshot_taken_meanwhile_freezes_what_is_read(
    bench: Bench, vm: RealVm, pause: Callable[[], Pausing]
) -> None:
    before = list(bench.digests(vm.uuid).values())
    export = pause()
    bench.host.run("snapshot", vm.uuid, "take", "meanwhile")
    export.go_on().result()
    assert (
        list(bench.digests(bench.restore(export.target, f"restored {vm.uuid}")).values()) == before
    )


def test_a_killed_vboxsvc_voids_the_copy(
    bench: Bench, vm: RealVm, pause: Callable[[], Pausing]
) -> None:
    export = pause()
    for process in bench.host.processes("VBoxSVC"):
        process.kill()
        process.wait(10)
    with pytest.raises(ExportError, match="was lost while it was read"):
        export.go_on().result()
    assert not export.target.exists()
    is_free(bench, vm)


def test_a_killed_holder_voids_the_copy(
    bench: Bench, vm: RealVm, pause: Callable[[], Pausing]
) -> None:
    export = pause()
    holders = bench.host.processes(word="mediumio")
    assert len(holders) == 1
    holders[0].kill()
    with pytest.raises(ExportError, match="was lost"):
        export.go_on().result()
    is_free(bench, vm)


def test_cancelling_frees_the_vm_at_once(
    bench: Bench, vm: RealVm, pause: Callable[[], Pausing]
) -> None:
    export = pause()
    export.export.cancel(0)
    with pytest.raises(ExportCanceledError):
        export.go_on().result()
    assert not export.target.exists()
    is_free(bench, vm)


def test_a_killed_worker_frees_the_vm(bench: Bench, vm: RealVm) -> None:
    """Nobody can clean up after a SIGKILL; the incomplete file is for the workers after it."""
    code = f"""
import time
from shared.ova.compression import Codec
from tests.contract.engine_vms import Bench
from tests.support.virtualbox import RealHost, Testbed
host = RealHost(Testbed.set_up(), {bench.host.name!r})
bench = Bench(host)
slow = Codec("slow", lambda data: time.sleep(60) or data, lambda data: data)
bench.parallel(slow).start(bench.machine({vm.uuid!r}), host.folder / "killed.ova")
time.sleep(60)
"""
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    target = bench.host.folder / "killed.ova"
    try:
        wait_for(lambda: target.exists() or worker.poll() is not None, "the export to begin")
    finally:
        worker.kill()
        worker.wait(10)
    wait_for(lambda: medium_state(bench.host, vm.disk) == "created", "the lock to go")
    assert list((bench.host.folder / "scratch").iterdir()) == []
    is_free(bench, vm)


def test_a_running_vm_is_refused(bench: Bench, vm: RealVm) -> None:
    vm.start()
    export = bench.parallel().start(bench.machine(vm.uuid), bench.host.folder / "running.ova")
    with pytest.raises(VmRunsError):
        ended(export).result()
    vm.stop()
    assert not (bench.host.folder / "running.ova").exists()


def test_nothing_of_an_export_is_left(bench: Bench, vm: RealVm) -> None:
    before = {thread.name for thread in threading.enumerate()}
    files = len(os.listdir("/proc/self/fd"))
    ended(bench.parallel().start(bench.machine(vm.uuid), bench.host.folder / "left.ova")).result()
    time.sleep(0.1)
    assert {thread.name for thread in threading.enumerate()} == before
    assert len(os.listdir("/proc/self/fd")) == files
    assert bench.host.processes("VBoxManage") == []


def test_virtualbox_exports_nothing_any_more_once_it_has_described_the_vm(bench: Bench) -> None:
    """An export that goes on by itself would keep a core busy, and the VM from starting, for as
    long as VirtualBox's own export takes.
    """
    vm = bench.host.make_vm("described", mib=400, random_mib=300)
    for _ in range(5):
        scratch = bench.host.folder / "scratch"
        take_description(
            bench.vboxmanage,
            vm.uuid,
            vm.name,
            disks=1,
            scratch=scratch,
            cancelled=threading.Event(),
        )
        assert medium_state(bench.host, vm.disk) == "created"
