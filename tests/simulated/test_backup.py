"""The backup worker against a simulated VBoxManage that fails, hangs, lies and dies."""

import shlex
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.copies.copy_files import NasFiles
from shared.host.errors import IllegalMoveError, LockLostError, NasError
from shared.host.processes import SubprocessRunner
from shared.state.rules import archive, claims
from shared.state.sessions import deaths, recovery
from shared.state.sessions.deaths import Dead
from shared.state.sessions.session import Session
from shared.state.states import State
from tests.simulated.conftest import Rig, planned
from worker import database, notifier
from worker.backup import looks
from worker.backup import worker as backup


def test_a_vm_becomes_clean_and_its_copy_is_described_beside_it(rig: Rig) -> None:
    rig.host().make_vm("web01")
    outcome = backup.run(rig.look())
    assert outcome.done == ["web01"]
    record = rig.record("web01")
    assert record.status is State.CLEAN
    assert record.last_copy is not None
    stamp = record.last_copy.stamp
    assert rig.files("web01") == [
        f"{stamp}.{suffix}" for suffix in ("json", "ova", "sha256", "vbox")
    ]
    assert record.last_copy.fingerprint


def vboxmanage_calls(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The words of each call, as they were run."""
    lines = [record.message for record in caplog.records if "VBoxManage " in record.message]
    return [" ".join(line.partition("VBoxManage ")[2].split()[:2]) for line in lines]


@pytest.mark.parametrize("others", [0, 3])
def test_a_backup_makes_few_calls_and_reads_no_other_vms(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """Time stands still here: where it passes, the VM is looked at again."""
    rig.host().make_vm("web01")
    site = rig.look()
    for number in range(others):
        rig.host().make_vm(f"other{number}")
    monkeypatch.setattr(looks, "RECENT_SECONDS", 1000.0)
    monkeypatch.setattr("shared.site.HedgingRunner", SubprocessRunner)
    caplog.set_level("DEBUG", "shared.host.processes")
    assert backup.run(site).done == ["web01"]
    calls = vboxmanage_calls(caplog)
    assert len(calls) <= 8, calls
    assert not [call for call in calls if call.startswith("list")]


def test_a_command_that_is_run_before_and_changes_the_vm_is_seen(rig: Rig, tmp_path: Path) -> None:
    vm = rig.host().make_vm("web01")
    command = tmp_path / "before"
    command.write_text(f"#!/bin/sh\nexec {rig.host().vboxmanage} modifyvm web01 --memory=300\n")
    command.chmod(0o700)
    environment = rig.host().environment
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    command.write_text(command.read_text().replace("exec", text + "exec"))
    rig.policies["web01"] = {"before": [str(command)]}
    assert backup.run(rig.look()).done == ["web01"]
    assert vm.info("memory") == "300"
    assert rig.record("web01").status is State.CLEAN
    assert notifier.run(rig.site()).done == []


def test_nothing_to_do_commits_nothing(rig: Rig) -> None:
    rig.host().make_vm("web01")
    backup.run(rig.look())
    before = rig.site().database.head().generation
    site = rig.look()
    assert backup.run(site).exit_code == 0
    assert database.run(site).exit_code == 0
    assert site.database.head().generation == before


@pytest.mark.parametrize(
    "fault",
    [
        {"export_fails_at": 50},
        {"export_disk_full_at": 50},
        {"export_service_dies_at": 50},
        {"export_lie": "truncated"},
        {"export_lie": "damaged"},
        {"export_lie": "no_manifest"},
        {"export_lie": "no_file"},
        {"export_lie": "error_on_stderr"},
    ],
    ids=lambda fault: "-".join(map(str, next(iter(fault.items())))),
)
def test_a_bad_export_displaces_nothing_and_leaves_nothing(
    rig: Rig, fault: dict[str, object]
) -> None:
    vm = rig.host().make_vm("web01")
    backup.run(rig.look())
    good = rig.files("web01")
    vm.start()
    vm.stop()
    rig.host().fault(vm, **fault)
    outcome = backup.run(rig.look())
    record = rig.record("web01")
    assert (outcome.failed, record.status, record.failures) == (
        ["web01"],
        State.BACKUP_NECESSARY,
        1,
    )
    assert record.last_error
    assert rig.files("web01") == good
    rig.host().mend()
    assert backup.run(rig.site()).done == ["web01"]
    assert (rig.record("web01").failures, rig.record("web01").last_error) == (0, "")


def test_an_export_that_hangs_is_cancelled(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.host().fault(vm, export_hangs_at=30)
    site = rig.look()
    assert backup.run(rig.site(stall_seconds=1)).failed == ["web01"]
    assert "has not grown" in rig.record("web01").last_error
    assert rig.files("web01") == []
    assert rig.host().exports() == []
    assert site.vboxmanage.medium_state(str(vm.disk)) == "created"


def test_a_vm_that_is_started_just_before_its_export_is_left_running(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.host().fault(vm, starts_before_export=True)
    outcome = backup.run(rig.look())
    record = rig.record("web01")
    assert (outcome.deferred, outcome.exit_code, record.status, record.failures) == (
        ["web01"],
        4,
        State.RUNNING,
        0,
    )


def _during_export(rig: Rig, action: Callable[[], object]) -> threading.Thread:
    """Does something as soon as an export runs, in a thread that is to be joined."""

    def wait_and_act() -> None:
        end = time.monotonic() + 30
        while not rig.host().exports() and time.monotonic() < end:
            time.sleep(0.05)
        action()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def test_a_change_during_the_export_makes_the_copy_count_for_nothing(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.host().fault(vm, export_seconds=4)
    site = rig.look()
    meddler = _during_export(rig, lambda: rig.host().run("modifyvm", vm.uuid, "--memory", "32"))
    outcome = backup.run(site)
    meddler.join()
    assert outcome.failed == ["web01"]
    assert "changed during the export" in rig.record("web01").last_error
    assert rig.files("web01") == []


def test_running_vms_are_tried_again_for_a_while_and_taken_when_they_stop(rig: Rig) -> None:
    vm, other = rig.host().make_vm("busy"), rig.host().make_vm("idle")
    rig.look()
    vm.start()

    def stop() -> None:
        while rig.record(other.name).status is not State.CLEAN:
            time.sleep(0.05)
        vm.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    outcome = backup.run(rig.site(retry_seconds=20))
    stopper.join()
    assert outcome.done == [other.name, vm.name]
    assert outcome.exit_code == 0


def test_running_vms_are_deferred_when_the_time_is_up(rig: Rig) -> None:
    vm = rig.host().make_vm("busy")
    rig.look()
    vm.start()
    outcome = backup.run(rig.site(retry_seconds=0.3))
    assert (outcome.exit_code, rig.record("busy").status) == (4, State.RUNNING)
    vm.stop()
    notifier.run(rig.site())
    assert rig.record("busy").status is State.BACKUP_NECESSARY


def test_one_that_always_fails_goes_behind_those_that_wait(rig: Rig) -> None:
    bad = rig.host().make_vm("a-bad")
    rig.host().fault(bad, export_fails_at=10)
    rig.look()
    backup.run(rig.site())
    rig.host().make_vm("b-new")
    rig.look()
    assert planned(rig.site()) == ["b-new", "a-bad"]


def test_only_one_vm_on_request_and_a_refusal_that_names_the_reason(rig: Rig) -> None:
    rig.host().make_vm("web01")
    rig.host().make_vm("web02")
    site = rig.look()
    assert backup.run(site, only="web02").done == ["web02"]
    assert rig.record("web01").status is State.BACKUP_NECESSARY
    site.database.commit_once(
        lambda contents: archive.start_archive(contents, "web01", "nobody", "now"), "test", "test"
    )
    site.database.commit_once(
        lambda contents: archive.moved(contents, "web01", contents.vms["web01"].claim),
        "test",
        "test",  # type: ignore[arg-type]
    )
    with pytest.raises(IllegalMoveError, match="ARCHIVED"):
        backup.run(site, only="web01")


def expire_all(rig: Rig, *, by: str = "beta") -> None:
    site = rig.site(by)
    live = deaths.live_sessions(site.database.head().contents)
    recovery.expire(site.database, [Dead(row, "declared dead by the test") for row in live], "test")


def test_a_displaced_worker_stops_and_publishes_nothing(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.host("beta")
    rig.host().fault(vm, export_seconds=10)
    site = rig.look()
    displacer = _during_export(rig, lambda: expire_all(rig))
    with pytest.raises(LockLostError):
        backup.run(site)
    displacer.join()
    assert rig.record("web01").status is State.BACKUP_NECESSARY
    assert rig.files("web01") == []


class _Crash(BaseException):
    """What a kill looks like from inside: nothing may be done about it."""


class _CrashingFiles(NasFiles):
    """Dies at the first rename of a kind."""

    def __init__(self, suffix: str) -> None:
        super().__init__()
        self._suffix = suffix

    def rename(self, directory: object, source: str, target: str) -> None:
        if target.endswith(self._suffix) and not target.startswith("."):
            raise _Crash
        super().rename(directory, source, target)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["json", "sha256", "ova"])
def test_a_publication_that_was_begun_is_finished_by_any_host(
    rig: Rig, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.host().make_vm("web01")
    site = rig.look()
    site.files = _CrashingFiles(suffix)
    monkeypatch.setattr(
        "shared.state.sessions.session.Session.__exit__", lambda *_: None
    )  # a killed process ends no session
    with pytest.raises(_Crash):
        backup.run(site)
    monkeypatch.undo()
    record = rig.record("web01")
    assert record.status is State.BACKUP_IN_PROGRESS
    assert record.publishing is not None
    expire_all(rig)
    assert database.run(rig.site("beta")).done == ["web01"]
    record = rig.record("web01")
    assert record.status is State.CLEAN
    assert [name for name in rig.files("web01") if name.endswith(".ova")] == [
        f"{record.last_copy.stamp}.ova"
    ]  # type: ignore[union-attr]
    assert record.publishing is None


def test_a_publication_whose_files_are_gone_is_given_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.host().make_vm("web01")
    site = rig.look()
    site.files = _CrashingFiles("json")
    monkeypatch.setattr("shared.state.sessions.session.Session.__exit__", lambda *_: None)
    with pytest.raises(_Crash):
        backup.run(site)
    monkeypatch.undo()
    for name in rig.files("web01"):
        (rig.nas / "web01" / name).unlink()
    expire_all(rig)
    assert database.run(rig.site()).failed == ["web01"]
    assert rig.record("web01").status is State.BACKUP_NECESSARY


def test_a_commit_of_the_intent_that_is_in_doubt_removes_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.host().make_vm("web01")
    site = rig.look()
    commit = Session.commit

    def doubtful(session: Session, change: Callable[..., object], reason: str) -> object:
        done = commit(session, change, reason)  # type: ignore[arg-type]
        if reason.startswith("publish"):
            raise NasError("the NAS went away after it had taken the commit")
        return done

    monkeypatch.setattr(Session, "commit", doubtful)
    with pytest.raises(NasError):
        backup.run(site)
    monkeypatch.undo()
    assert any(name.endswith(".partial.ova") for name in rig.files("web01"))
    assert database.run(rig.site()).done == ["web01"]
    assert rig.record("web01").status is State.CLEAN


def test_what_a_killed_worker_left_is_removed(rig: Rig) -> None:
    rig.host().make_vm("web01")
    site = rig.look()
    with site.database.session("backup") as session:
        head = session.commit(
            lambda contents: claims.grant(contents, "web01", session.id, "backup", "now"), "claim"
        )
        number = head.contents.claims_granted
        (rig.nas / "web01").mkdir()
        (rig.nas / "web01" / f".20261122T203800Z-{number}.{number}.partial.ova").write_bytes(
            b"half"
        )
        expire_all(rig)
    assert database.run(rig.site()).exit_code == 0
    assert rig.files("web01") == []
    assert not rig.record("web01").leftovers


def test_a_vm_that_is_held_by_a_session_without_a_row_is_backed_up_again(rig: Rig) -> None:
    rig.host().make_vm("web01")
    site = rig.look()
    site.database.commit_once(
        lambda contents: claims.grant(contents, "web01", "alpha.lost", "backup", "now"), "a", "b"
    )
    assert backup.run(site).done == []
    assert database.run(rig.site()).exit_code == 0
    assert rig.record("web01").claim is None
    assert backup.run(rig.site()).done == ["web01"]
