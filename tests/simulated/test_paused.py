"""A VM that runs, and is exported from clones that were made while it was paused."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.state.states import State
from tests.simulated.conftest import Rig
from tests.simulated.test_policies import sidecar
from tests.support.file_systems import mounted
from tests.support.simulated.host import SimulatedVm
from worker import notifier, vmfind
from worker.backup import worker as backup
from worker.backup.paused import Paused

pytestmark = pytest.mark.slow


@pytest.fixture
def xfs(tmp_path: Path, probe_in_this_process: None) -> Iterator[Rig]:
    with mounted("xfs", tmp_path) as place:
        yield Rig(place)


def run(rig: Rig) -> None:
    settings = {"running": "pause", "running_hours": 0, "pause_seconds": 60}
    site = rig.site(engine="parallel", clone_free=50, **settings)
    for worker in (vmfind, notifier, backup):
        worker.run(site)  # type: ignore[attr-defined]


def left(rig: Rig) -> list[Path]:
    return [path for name in ("vmbackup-*", "*.frozen") for path in rig.folder.rglob(name)]


def vm_that_runs(rig: Rig) -> SimulatedVm:
    vm = rig.host().make_vm("web01")
    vm.start()
    return vm


def test_a_host_that_runs_short_of_room_gives_the_clones_up_and_it_is_tried_again(
    xfs: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And then it is told how long the VM stood still."""
    vm, others, right = vm_that_runs(xfs), xfs.folder / "others", Paused.require_room

    def fill(method: Paused) -> None:
        others.write_bytes(bytes(shutil.disk_usage(xfs.folder).free * 4 // 5))
        right(method)

    with monkeypatch.context() as patched:
        patched.setattr(Paused, "require_room", fill)
        run(xfs)
    record = xfs.record("web01")
    assert "runs short of room" in record.last_error
    assert (record.failures, vm.info("VMState")) == (1, "running")
    assert xfs.files("web01") == left(xfs) == []
    os.truncate(others, 0)  # at once; what is removed is given back by and by
    others.unlink()
    caplog.set_level("INFO")
    run(xfs)
    assert (xfs.record("web01").status, vm.info("VMState")) == (State.CLEAN, "running")
    made = sidecar(xfs, "web01")
    assert made.not_paused == ""
    assert 0 < made.paused_seconds < 60
    assert f"it stood still for {made.paused_seconds:.2f} s" in caplog.text
    assert left(xfs) == [], "its NAS makes no use of an index"
