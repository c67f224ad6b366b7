"""When backups start, what is done around them, and what is kept beside a copy."""

import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from shared.copies import catalogue
from shared.copies.sidecar import Sidecar
from shared.host.errors import IllegalMoveError, LockLostError
from shared.state.rules import archive
from shared.state.states import State
from tests.simulated.conftest import Rig, planned
from tests.simulated.test_backup import expire_all
from worker.backup import worker as backup
from worker.backup.backup_order import NO_SLOT


def hours(begin: float, end: float) -> str:
    """A window from and to so many hours from now."""
    now = datetime.now().astimezone()
    return f"{now + timedelta(hours=begin):%H:%M}-{now + timedelta(hours=end):%H:%M}"


def sidecar(rig: Rig, key: str) -> Sidecar:
    latest = catalogue.read(rig.nas / rig.record(key).directory, None).latest_good
    assert latest is not None
    assert latest.sidecar is not None
    return latest.sidecar


def note(folder: Path, *variables: str) -> list[str]:
    """A command that writes these variables into a file, a line a call."""
    return [
        "/bin/sh",
        "-c",
        "echo " + " ".join(f'"$VMBACKUP_{name}"' for name in variables) + f" >>{folder}/hooks",
    ]


def noted(folder: Path) -> list[str]:
    return [line.strip() for line in (folder / "hooks").read_text().splitlines()]


def test_a_vm_waits_for_its_window_and_says_so_once(rig: Rig) -> None:
    rig.host().make_vm("web01")
    rig.look()
    window = hours(2, 3)
    outcome = backup.run(rig.site(window=window))
    assert (outcome.exit_code, outcome.postponed, outcome.done) == (0, ["web01"], [])
    record = rig.record("web01")
    assert (record.status, record.waiting, record.failures) == (
        State.BACKUP_NECESSARY,
        f"waits for its window {window}",
        0,
    )
    before = rig.site().database.head().generation
    assert backup.run(rig.site(window=window)).exit_code == 0
    assert rig.site().database.head().generation == before
    assert planned(rig.site(window=window)) == []
    assert backup.run(rig.site(window=hours(-1, 2))).done == ["web01"]
    assert rig.record("web01").waiting == ""


def test_an_export_that_would_overrun_its_window_does_not_start(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    backup.run(rig.look())
    path = rig.nas / "web01" / f"{sidecar(rig, 'web01').stamp}.json"
    path.write_text(
        path.read_text().replace('"duration_seconds": ', '"duration_seconds": 9000')
    )  # two and a half hours at least
    vm.start()
    vm.stop()
    rig.look()
    outcome = backup.run(rig.site(window=hours(-4, 1)))
    assert (outcome.postponed, outcome.exit_code) == ([], 3), "longer than any window of five hours"
    assert "whole window" in rig.record("web01").waiting
    assert backup.run(rig.site()).done == ["web01"]


def test_no_more_exports_run_on_the_nas_than_are_allowed(rig: Rig) -> None:
    running, most = [0], [0]
    for name in ("alpha", "beta", "gamma"):
        vm = rig.host(name).make_vm(f"vm-{name}")
        rig.host(name).fault(vm, export_seconds=0.7)
        rig.look(name)

    def watch() -> None:
        while not done.wait(0.02):
            running[0] = sum(bool(rig.host(name).exports()) for name in ("alpha", "beta", "gamma"))
            most[0] = max(most[0], running[0])

    done = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    outcomes = []
    sites = [
        rig.site(name, exports_on_nas=1, retry_seconds=60) for name in ("alpha", "beta", "gamma")
    ]
    workers = [
        threading.Thread(target=lambda site=site: outcomes.append(backup.run(site)))
        for site in sites
    ]  # type: ignore[misc]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done.set()
    watcher.join()
    assert sorted(outcome.done[0] for outcome in outcomes) == ["vm-alpha", "vm-beta", "vm-gamma"]
    assert most[0] == 1


def test_places_go_round_in_the_order_in_which_hosts_began_to_wait(rig: Rig) -> None:
    """A host with three VMs does not keep the place.

    The others, who wait since its first export, come before its second.
    """
    for name, vms in (("alpha", 3), ("beta", 1), ("gamma", 1)):
        for number in range(vms):
            rig.host(name).fault(rig.host(name).make_vm(f"{name}{number}"), export_seconds=1.5)
        rig.look(name)
    workers = []
    for name in ("alpha", "beta", "gamma"):
        site = rig.site(name, exports_on_nas=1, retry_seconds=60)
        workers.append(threading.Thread(target=backup.run, args=(site,)))
        workers[-1].start()
        while not (
            rig.host("alpha").exports() if name == "alpha" else rig.record(f"{name}0").queued
        ):
            time.sleep(0.01)
    for worker in workers:
        worker.join()
    claims = {
        key: record.last_copy.claim
        for key, record in rig.site().database.head().contents.vms.items()
        if record.last_copy
    }
    assert sorted(claims, key=lambda key: claims[key])[:3] == ["alpha0", "beta0", "gamma0"]
    assert len(claims) == 5


def test_a_vm_without_a_place_is_left_for_a_later_tick_and_a_dead_host_frees_its_place(
    rig: Rig,
) -> None:
    vm = rig.host("alpha").make_vm("long")
    rig.host("alpha").fault(vm, export_seconds=30)
    rig.host("beta").make_vm("short")
    exporting = rig.look("alpha")
    rig.look("beta")
    raised: list[BaseException] = []

    def run() -> None:
        try:
            backup.run(exporting)
        except LockLostError as error:
            raised.append(error)

    worker = threading.Thread(target=run)
    worker.start()
    while not rig.host("alpha").exports():
        time.sleep(0.02)
    outcome = backup.run(rig.site("beta", exports_on_nas=1, retry_seconds=0.2))
    assert (outcome.exit_code, outcome.postponed) == (0, ["short"])
    assert rig.record("short").waiting == NO_SLOT
    expire_all(rig)
    assert backup.run(rig.site("beta", exports_on_nas=1, retry_seconds=0.2)).done == ["short"]
    worker.join()
    assert raised


def test_commands_are_run_around_a_backup_with_the_facts(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.look()
    facts = ("EVENT", "STATUS", "VM", "NODE", "UUID", "COPY", "SIZE", "ERROR")
    commands = {event: note(rig.folder, *facts) for event in ("before", "after", "failed")}
    backup.run(rig.site(**commands))
    made = sidecar(rig, "web01")
    common = f"web01 alpha {vm.uuid} {rig.nas}/web01/{made.stamp}.ova"
    assert noted(rig.folder) == [f"before begins {common}", f"after done {common} {made.size}"]


def test_a_before_that_fails_skips_the_vm(rig: Rig) -> None:
    rig.host().make_vm("web01")
    rig.look()
    outcome = backup.run(
        rig.site(
            before=["/bin/sh", "-c", "echo the database is busy; exit 1"],
            failed=note(rig.folder, "STATUS", "ERROR"),
        )
    )
    record = rig.record("web01")
    assert (outcome.exit_code, record.status, record.failures) == (3, State.BACKUP_NECESSARY, 1)
    assert record.last_error == "the command `before` failed (status 1): the database is busy"
    assert noted(rig.folder) == [f"failed {record.last_error}"]
    assert not (rig.nas / "web01").exists() or rig.files("web01") == []


def test_a_failing_after_fails_nothing_and_a_failed_export_is_told(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.look()
    assert backup.run(rig.site(after=["/bin/false"])).exit_code == 0
    vm.start()
    vm.stop()
    rig.host().fault(vm, export_fails_at=50)
    rig.look()
    assert (
        backup.run(
            rig.site(after=note(rig.folder, "STATUS"), failed=note(rig.folder, "STATUS", "ERROR"))
        ).exit_code
        == 3
    )
    assert noted(rig.folder) == [f"failed {rig.record('web01').last_error}"]


def test_the_settings_file_is_kept_beside_the_copy(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    backup.run(rig.look())
    made = sidecar(rig, "web01")
    assert (rig.nas / "web01" / f"{made.stamp}.vbox").read_bytes() == vm.settings.read_bytes()
    assert (set(made.files), made.left_out) == ({"vbox"}, ())


@pytest.mark.parametrize("saved", ["keep", "warn"])
def test_the_memory_of_a_saved_vm_is_kept_or_not_as_its_policy_says(rig: Rig, saved: str) -> None:
    vm = rig.host().make_vm("web01")
    vm.start()
    rig.host().run("controlvm", vm.uuid, "savestate")
    (memory,) = rig.host().folder.rglob("*.sav")
    memory.write_bytes(b"memory" * 500_000)
    rig.look()
    assert backup.run(rig.site(saved=saved)).done == ["web01"]
    made = sidecar(rig, "web01")
    if saved == "keep":
        assert (rig.nas / "web01" / f"{made.stamp}.sav").read_bytes() == memory.read_bytes()
        assert (set(made.files), made.left_out) == ({"vbox", "sav"}, ())
    else:
        assert (set(made.files), made.left_out) == (
            {"vbox"},
            ('its saved memory (saved = "warn")',),
        )


def test_that_snapshots_are_not_in_the_copy_is_said(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    vm = rig.host().make_vm("web01")
    rig.host().run("snapshot", vm.uuid, "take", "mine")
    backup.run(rig.look())
    assert sidecar(rig, "web01").left_out == (
        "its snapshots: the copy has the VM's current state only",
    )
    assert "not in the copy: its snapshots" in caplog.text


def test_firmware_variables_are_kept_if_the_ova_has_none(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    nvram = vm.settings.with_suffix(".nvram")
    nvram.write_bytes(b"keys of a TPM")
    backup.run(rig.look())
    assert (
        rig.nas / "web01" / f"{sidecar(rig, 'web01').stamp}.nvram"
    ).read_bytes() == b"keys of a TPM"


def test_a_missing_disk_is_named_and_the_vm_goes_to_the_back(rig: Rig) -> None:
    vm = rig.host().make_vm("a-broken")
    vm.disk.rename(vm.disk.with_suffix(".away"))
    rig.look()
    outcome = backup.run(rig.site())
    assert (outcome.failed, outcome.exit_code) == (["a-broken"], 3)
    assert (
        rig.record("a-broken").last_error
        == f"its disk {vm.disk} cannot be used: No such file or directory"
    )
    rig.host().make_vm("b-new")
    rig.look()
    assert planned(rig.site()) == ["b-new", "a-broken"]


class TestWantedNow:
    """`backup --vm NAME --now`: also what does not wait for a backup."""

    def test_a_clean_vm_gets_another_copy(self, rig: Rig) -> None:
        rig.host().make_vm("web01")
        backup.run(rig.look())
        first = rig.record("web01").last_copy
        assert backup.run(rig.site(), only="web01").done == [], "it was not used"
        assert backup.run(rig.site(), only="web01", now=True).done == ["web01"]
        second = rig.record("web01").last_copy
        assert first is not None
        assert second is not None
        assert (rig.record("web01").status, second.stamp != first.stamp) == (State.CLEAN, True)

    def test_a_running_one_that_is_left_alone_is_backed_up_live(self, rig: Rig) -> None:
        vm = rig.host().make_vm("web01")
        vm.start()
        site = rig.look()
        assert rig.record("web01").status is State.RUNNING
        assert backup.run(site, only="web01", now=True).done == ["web01"]
        assert rig.record("web01").last_copy is not None
        assert vm.info("VMState") == "running"
        assert vm.info("SnapshotName") == ""

    def test_a_closed_window_is_no_hindrance(self, rig: Rig) -> None:
        rig.host().make_vm("web01")
        rig.host().make_vm("web02")
        rig.look()
        closed = hours(2, 3)
        assert backup.run(rig.site(window=closed)).done == []
        assert backup.run(rig.site(window=closed), only="web01", now=True).done == ["web01"]
        assert rig.record("web02").status is State.BACKUP_NECESSARY
        assert rig.record("web02").last_copy is None

    def test_archived_ones_are_refused(self, rig: Rig) -> None:
        rig.host().make_vm("web01")
        backup.run(rig.look())
        rig.site().database.commit_once(
            lambda contents: archive.start_archive(contents, "web01", "nobody", "now"), "t", "t"
        )
        rig.site().database.commit_once(
            lambda contents: archive.moved(contents, "web01", contents.vms["web01"].claim), "t", "t"
        )
        with pytest.raises(IllegalMoveError):
            backup.run(rig.site(), only="web01", now=True)

    def test_a_plan_says_so_and_changes_nothing(self, rig: Rig) -> None:
        rig.host().make_vm("web01")
        backup.run(rig.look())
        before = rig.site().database.head().generation
        assert planned(rig.site(), "web01") == []
        assert planned(rig.site(), "web01", now=True) == ["web01"]
        assert rig.site().database.head().generation == before
