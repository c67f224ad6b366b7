"""Which engine makes a copy, and what of the copy before goes into it.

No fault of either loses a backup, and the copy tells.
"""

import os
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.copies.sidecar import Sidecar
from shared.export import disk_writing, eligibility, engine
from shared.host.errors import CopyError, DiskImageError, NasError
from shared.host.kernel import available_cores
from shared.nas.mount import Mount
from shared.state.sessions import heartbeat
from shared.state.states import State
from shared.tasks import archiving
from shared.virtualbox.export_errors import VmRunsError
from tests.simulated.conftest import Rig
from tests.simulated.test_policies import sidecar
from tests.support.hosts import VirtualMachine
from tests.support.server_copies import note_server_copy
from worker import database
from worker.backup import publish
from worker.backup import worker as backup
from worker.backup.plan import plan

NFS = Mount("/mnt/nas", "nfs4", "nas:/export", ("rw", "vers=4.2"))


def failing(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, error: Exception, *, times: int = 99
) -> list[int]:
    """Lets a function of the engine fail for so many calls; the list counts them."""
    right, calls = getattr(module, name), [0]

    def fail(*arguments: object, **named: object) -> object:
        calls[0] += 1
        if calls[0] <= times:
            raise error
        return right(*arguments, **named)

    monkeypatch.setattr(module, name, fail)
    return calls


@pytest.mark.parametrize(
    ("wanted", "refused", "live"),
    [
        *(("auto", False, False), ("auto", True, True), ("parallel", False, True)),
        *(("parallel", True, False), ("vboxmanage", True, False)),
    ],
)
def test_the_plan_names_the_engine_that_then_makes_the_copy(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, wanted: str, refused: bool, live: bool
) -> None:
    rig.host().make_vm("web01")
    rig.look()
    if refused:
        failing(monkeypatch, eligibility, "open_disk", DiskImageError("a disk of 1991"))
    site = rig.site(engine=wanted, live_when_stopped=live)
    (planned,) = plan(site)
    assert planned.method.startswith("live" if live else "as it is")
    done = backup.run(site).done
    if refused and wanted == "parallel":
        assert "would fail" in planned.waits
        assert "a disk of 1991" in planned.waits
        assert done == []
        return
    names = {"the parallel engine": "parallel", "VBoxManage": "vboxmanage"}
    assert done == ["web01"]
    assert names[planned.engine] == sidecar(rig, "web01").engine
    assert ("a disk of 1991" in planned.engine_reason) == (refused and wanted == "auto")


@pytest.mark.parametrize("live", [False, True])
def test_what_the_parallel_engine_fails_at_virtualbox_exports(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, live: bool
) -> None:
    vm = rig.host().make_vm("web01")
    rig.look()
    failing(monkeypatch, engine, "take_description", ZeroDivisionError("a fault"))
    assert backup.run(rig.site(engine="auto", live_when_stopped=live)).done == ["web01"]
    found = sidecar(rig, "web01")
    assert (found.engine, "a fault" in found.engine_reason) == ("vboxmanage", True)
    assert "a fault" in caplog.text
    assert [name for name in rig.files("web01") if "partial" in name] == []
    assert rig.host().run("list", "vms").stdout.count("\n") == 1, "no clone is left"
    assert "SnapshotName" not in rig.host().run("showvminfo", vm.uuid, "--machinereadable").stdout


def test_what_the_second_attempt_leaves_is_not_taken_for_what_the_first_has_removed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.host().make_vm("web01")
    rig.look()
    failing(monkeypatch, engine, "take_description", ZeroDivisionError("a fault"))
    failing(monkeypatch, publish, "intend", NasError("in doubt: nothing may be removed"))
    with pytest.raises(NasError):
        backup.run(rig.site(engine="auto"))
    assert rig.files("web01")
    assert rig.record("web01").leftovers
    database.run(rig.site())
    assert rig.files("web01") == []


def test_who_wants_the_parallel_engine_and_no_other_gets_its_fault(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.host().make_vm("web01")
    rig.look()
    failing(monkeypatch, engine, "take_description", ZeroDivisionError("a fault"))
    assert backup.run(rig.site(engine="parallel")).failed == ["web01"]
    assert "a fault" in rig.record("web01").last_error
    assert rig.files("web01") == []


def test_a_fault_in_looking_at_the_disks_is_a_reason_for_virtualbox(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.host().make_vm("web01")
    rig.look()
    failing(monkeypatch, eligibility, "open_disk", RecursionError("too deep"))
    assert backup.run(rig.site(engine="auto")).done == ["web01"]
    assert "too deep" in sidecar(rig, "web01").engine_reason


def test_a_copy_of_the_parallel_engine_that_is_found_damaged_is_made_by_virtualbox(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.host().make_vm("web01")
    rig.look()
    calls = failing(monkeypatch, publish, "check_ova", CopyError("it is damaged"), times=1)
    assert backup.run(rig.site(engine="auto")).done == ["web01"]
    assert (sidecar(rig, "web01").engine, calls) == ("vboxmanage", [2])
    assert "it is damaged" in sidecar(rig, "web01").engine_reason


def test_an_engine_that_hangs_is_replaced(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.host().make_vm("web01")
    rig.look()

    def hang(
        _archive: object,
        _parts: object,
        _settings: object,
        _locks: object,
        _meter: object,
        cancelled: object,
        _delta: object,
    ) -> None:
        assert cancelled.wait(60)  # type: ignore[attr-defined]
        raise engine.CopyError("cancelled")

    monkeypatch.setattr(disk_writing, "write_disks", hang)
    assert backup.run(rig.site(engine="auto", stall_seconds=1)).done == ["web01"]
    assert "has not grown" in sidecar(rig, "web01").engine_reason


@pytest.mark.parametrize(
    ("error", "outcome"), [(VmRunsError("it runs"), "deferred"), (NasError("it is full"), "failed")]
)
def test_a_vm_that_runs_and_a_nas_that_is_full_are_no_fault_of_the_engine(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: str
) -> None:
    rig.host().make_vm("web01")
    rig.look()
    calls = failing(monkeypatch, engine, "take_description", error)
    assert getattr(backup.run(rig.site(engine="auto")), outcome) == ["web01"]
    assert (calls, rig.host().exports(), rig.files("web01")) == ([1], [], [])


@pytest.fixture
def copied(rig: Rig) -> Callable[..., Sidecar]:
    """Makes a further copy of `web01` on a NAS that copies by itself, after a use of the VM, and
    answers what is said of it.
    """
    vm = rig.host().make_vm("web01")

    def make(mount: Mount | None = NFS, **settings: object) -> Sidecar:
        touch(rig, vm)
        rig.look()
        site = rig.site(**{"engine": "auto", **settings})
        site.nas = replace(site.nas, mount=mount)
        note_server_copy(site.configuration.host.state_directory, NFS)
        assert backup.run(site).done == ["web01"]
        assert [name for name in rig.files("web01") if "partial" in name] == []
        return sidecar(rig, "web01")

    return make


def touch(rig: Rig, vm: VirtualMachine) -> None:
    """A use of a VM that changes none of its disks."""
    rig.host().run("modifyvm", vm.uuid, "--description", os.urandom(8).hex())


def test_the_record_counts_copies_that_another_engine_made_until_the_wanted_one_does(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, copied: Callable[..., Sidecar]
) -> None:
    def counted() -> int:
        copied()
        last = rig.record("web01").last_copy
        assert last is not None
        return last.other_engine.copies if last.other_engine else 0

    with monkeypatch.context() as broken:
        failing(broken, engine, "take_description", ZeroDivisionError("a fault"))
        assert [counted(), counted(), counted()] == [1, 2, 3]
    assert (counted(), counted()) == (0, 0)


def index_of(rig: Rig, found: Sidecar) -> Path:
    return rig.nas / "web01" / f"{found.stamp}.index"


def test_a_second_copy_takes_over_what_the_first_holds(
    rig: Rig, copied: Callable[..., Sidecar]
) -> None:
    first = copied()
    assert first.wire is not None
    assert (first.wire.sent, first.wire.copied, first.wire.reason) == (
        first.size,
        0,
        "there is no copy before it that has an index",
    )
    assert stat.S_IMODE(index_of(rig, first).stat().st_mode) == stat.S_IMODE(
        (rig.nas / "web01" / f"{first.stamp}.ova").stat().st_mode
    )
    second = copied()
    assert second.wire is not None
    assert second.wire.copied > 0.8 * second.size
    assert (second.wire.sent + second.wire.copied, second.wire.reason) == (second.size, "")
    third = copied()
    assert third.wire is not None
    assert third.wire.copied > 0.8 * third.size
    assert not index_of(rig, first).exists(), "retention removes it with its copy"
    assert index_of(rig, second).exists()


def test_one_of_so_many_copies_is_sent_whole(copied: Callable[..., Sidecar]) -> None:
    found = [copied(whole_every=2).wire for _ in range(4)]
    assert [wire.copied > 0 for wire in found if wire] == [False, True, False, True]
    assert found[2] is not None
    assert found[2].reason == "one of 2 copies is sent whole"


@pytest.mark.parametrize(
    "mount",
    [
        None,
        replace(NFS, options=("vers=4.1",)),
        replace(NFS, source="nas:/other"),
        replace(NFS, filesystem="cifs"),
        replace(NFS, filesystem="xfs"),
    ],
)
def test_where_nothing_could_be_copied_no_index_is_written(
    rig: Rig, copied: Callable[..., Sidecar], mount: Mount | None
) -> None:
    for _ in range(2):
        found = copied(mount)
        assert found.wire is not None
        assert (found.wire.copied, bool(found.wire.reason)) == (0, True)
        assert not index_of(rig, found).exists()


def test_a_lost_or_damaged_index_costs_a_whole_copy_and_no_more(
    rig: Rig, copied: Callable[..., Sidecar]
) -> None:
    index_of(rig, copied()).unlink()
    second = copied()
    assert second.wire is not None
    assert second.wire.reason == "there is no copy before it that has an index"
    index_of(rig, second).write_bytes(b"?" * 100_000)
    third = copied()
    assert third.wire is not None
    assert third.wire.reason.startswith("the copy before it has no index that can be used")
    fourth = copied()
    assert fourth.wire is not None
    assert fourth.wire.copied > 0


def test_rot_in_the_copy_before_is_found_at_once_and_not_inherited(
    rig: Rig, copied: Callable[..., Sidecar], caplog: pytest.LogCaptureFixture
) -> None:
    first = copied()
    rotten = rig.nas / "web01" / f"{first.stamp}.ova"
    data = bytearray(rotten.read_bytes())
    data[len(data) // 2] ^= 1
    rotten.write_bytes(data)
    second = copied()
    assert second.wire is not None
    assert second.engine == "parallel"
    assert (second.wire.copied, "digest" in second.wire.reason) == (0, True)
    assert "copying what the copy before holds failed" in caplog.text
    assert rig.record("web01").status is State.CLEAN
    third = copied()
    assert third.wire is not None
    assert third.wire.copied > 0, "from the second one, which is sound"


def test_a_nas_that_refuses_to_copy_is_sent_everything(
    rig: Rig, copied: Callable[..., Sidecar], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied()
    failing(monkeypatch, os, "copy_file_range", OSError(95, "Operation not supported"))
    second = copied()
    assert second.wire is not None
    assert (second.engine, second.wire.copied) == ("parallel", 0)
    assert "Operation not supported" in second.wire.reason


def test_a_copy_by_virtualbox_in_between_does_no_harm(copied: Callable[..., Sidecar]) -> None:
    copied()
    between = copied(engine="vboxmanage")
    assert between.wire is not None
    assert (between.engine, between.engine_reason, between.wire.sent) == (
        "vboxmanage",
        "",
        between.size,
    )
    last = copied()
    assert last.wire is not None
    assert last.wire.copied > 0, "from the one before"


def test_an_archived_vm_keeps_no_index(rig: Rig, copied: Callable[..., Sidecar]) -> None:
    copied()
    copied()
    site = rig.site()
    archiving.archive(site, "web01")
    assert list(rig.nas.rglob("*.index")) == []
    assert len(list((rig.nas / "archive" / "web01").glob("*.ova"))) == 2
    archiving.activate(rig.site(), "web01")
    found = copied()
    assert found.wire is not None
    assert found.wire.reason == "there is no copy before it that has an index"


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (3, 3), (0, available_cores())])
def test_the_engine_uses_as_many_cores_as_it_may(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    rig.host().make_vm("web01")
    rig.look()
    seen: list[int] = []

    class Pipeline(disk_writing.Pipeline):
        def close(self) -> bool:
            seen.append(
                sum(thread.name.startswith("engine-compress") for thread in threading.enumerate())
            )
            return super().close()

    monkeypatch.setattr(disk_writing, "Pipeline", Pipeline)
    assert backup.run(rig.site(engine="parallel", cores=cores)).done == ["web01"]
    assert seen == [threads]


def test_a_running_export_says_how_fast_it_is_and_how_long_it_will_take(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.host().fault(vm, export_seconds=7)
    site = rig.look()
    said: list[dict[str, Any]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            sessions = (rig.nas / "vmstate" / "node").iterdir()
            said.extend(
                heartbeat.parse_beat(heartbeat.read_beat(session.parent, session.name))
                for session in sessions
            )

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert backup.run(site).done == ["web01"]
    finally:
        done.set()
        watcher.join()
    assert any(
        beat.get("phase") == "export"
        and beat.get("rate", 0) > 0
        and 0 < beat.get("seconds_left", 0) < 30
        for beat in said
    )
    assert all("rate" not in beat for beat in said if beat.get("phase") == "check")
