"""No outage for nothing.

All is settled before a VM is touched, and one that was stopped in vain is left alone for a while.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from shared.copies import catalogue
from shared.export import eligibility
from shared.export import engine as parallel
from shared.host.clock import SystemClock, timestamp
from shared.host.configuration import PolicyTable
from shared.host.errors import DiskImageError, NasError
from shared.nas.mount import check_nas
from shared.site import Site
from shared.state.records import Power
from shared.state.rules import backup as backup_rules
from shared.state.rules import claims
from shared.state.sessions import deaths, recovery
from shared.state.sessions.deaths import Dead
from shared.state.states import State
from shared.virtualbox.inventory import Machine
from tests.simulated.conftest import Rig, planned
from tests.simulated.test_engine_choice import failing
from tests.simulated.test_policies import hours
from tests.support.simulated import SimulatedVm
from worker import notifier
from worker.backup import admission, room
from worker.backup import method as method_module
from worker.backup import worker as backup
from worker.backup.window import Readiness
from worker.backup.work import Method, Target, Work
from worker.report import Report

TOUCHES = ("controlvm", "startvm", "clonevm", "discardstate")


class PutClock(SystemClock):
    """A wall clock that stands still until it is put forward."""

    def __init__(self) -> None:
        self._begin, self.ahead = super().now().replace(microsecond=0), timedelta()

    def now(self) -> datetime:
        return self._begin + self.ahead


class Watched:
    """A running VM that is due, and what is done to it."""

    def __init__(self, rig: Rig, vm: SimulatedVm) -> None:
        self.rig, self.vm, self.clock = rig, vm, PutClock()
        self._calls = rig.folder / "calls"
        script = rig.host().vboxmanage
        script.write_text(
            script.read_text().replace("exec ", f"printf '%s\\n' \"$*\" >>'{self._calls}'\nexec ")
        )

    def site(self, **backup: object) -> Site:
        site = self.rig.site(**{"running_hours": 0, **backup})
        if "running" not in backup:  # each VM's name is its method
            policies = {name: PolicyTable.model_validate({"running": name}) for name in METHODS}
            site.configuration = site.configuration.model_copy(update={"policy": policies})
        site.clock = self.clock
        return site

    def tick(self, **settings: object) -> Report:
        """notifier and backup, as cron starts them."""
        notifier.run(self.site(**settings))
        return backup.run(self.site(**settings))

    def touches(self, *words: str) -> list[str]:
        """The commands that did something to a VM, or those of them that have these words."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        found = [
            line
            for line in lines
            if line.startswith(TOUCHES) or (line.startswith("snapshot ") and " list" not in line)
        ]
        return [line for line in found if all(word in line for word in words)]


@pytest.fixture
def watched(rig: Rig) -> Watched:
    vm = rig.host().make_vm("web01")
    vm.start()
    rig.look()
    return Watched(rig, vm)


def full(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    _reserve_all(watched.rig, monkeypatch)
    return {}


def full_after_the_claim(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    _reserve_all(watched.rig, monkeypatch)
    monkeypatch.setattr(admission, "judge_room", lambda *_: admission.NOW)
    return {}


def impossible_directory(watched: Watched, _: pytest.MonkeyPatch) -> dict[str, object]:
    for name in METHODS:
        (watched.rig.nas / name).write_text("a file")
    return {}


def impossible_engine(_: Watched, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    failing(monkeypatch, eligibility, "open_disk", DiskImageError("its format is unknown"))
    return {"engine": "parallel"}


def closed_window(_: Watched, __: pytest.MonkeyPatch) -> dict[str, object]:
    return {"window": hours(2, 3)}


def window_that_closes_after_the_claim(
    _: Watched, monkeypatch: pytest.MonkeyPatch
) -> dict[str, object]:
    for name in ("judge_window", "judge_length"):
        monkeypatch.setattr(admission, name, lambda *_: admission.NOW)
    return {"window": hours(2, 3)}


def failing_hook(_: Watched, __: pytest.MonkeyPatch) -> dict[str, object]:
    return {"before": ["/bin/false"]}


def read_only(_: Watched, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    def refuse(*arguments: object, write: bool = False, **more: object) -> object:
        if write:
            raise NasError("the NAS is mounted read-only")
        return check_nas(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(method_module, "check_nas", refuse)
    return {}


def missing_disk(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setattr(
        method_module,
        "refuse_unexportable",
        lambda _: (_ for _ in ()).throw(DiskImageError("its disk is gone")),
    )
    return {}


def full_host(_: Watched, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**20}))
    return {}


def _reserve_all(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    original = rig.site

    def site(name: str = "alpha", **backup: object) -> Site:
        made = original(name, **backup)
        nas = made.configuration.nas.model_copy(update={"reserve": 2**60})
        made.configuration = made.configuration.model_copy(update={"nas": nas})
        return made

    monkeypatch.setattr(rig, "site", site)


OBSTACLES: list[tuple[Callable[[Watched, pytest.MonkeyPatch], dict[str, object]], int]] = [
    (full, 13),
    (full_after_the_claim, 13),
    (impossible_directory, 13),
    (read_only, 13),
    (impossible_engine, 3),
    (failing_hook, 3),
    (missing_disk, 3),
    (full_host, 3),
    (closed_window, 0),
    (window_that_closes_after_the_claim, 0),
]


METHODS = ("live", "savestate", "shutdown")


@pytest.mark.parametrize(
    ("obstacle", "code"), OBSTACLES, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_nothing_is_done_to_a_vm_whose_backup_cannot_succeed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, obstacle: Callable[..., dict[str, object]], code: int
) -> None:
    """Three VMs that run, each with a method of its own."""
    vms = {name: rig.host().make_vm(name) for name in METHODS}
    for vm in vms.values():
        vm.start()
    rig.look()
    watched = Watched(rig, vms["live"])
    settings = obstacle(watched, monkeypatch)
    before = {name: vm.info("VMStateChangeTime") for name, vm in vms.items()}
    outcome = watched.tick(**settings)
    spared = (
        {"live", "savestate"} if obstacle is full_host else set(METHODS)
    )  # one that is shut down takes no room on its host
    assert (outcome.exit_code, set(outcome.done)) == (code, set(METHODS) - spared)
    for name in spared:
        assert watched.touches(vms[name].uuid) == []
        assert (vms[name].info("VMState"), vms[name].info("VMStateChangeTime")) == (
            "running",
            before[name],
        )
        record = rig.record(name)
        assert (record.status, record.power, record.claim, record.outages_failed) == (
            State.BACKUP_NECESSARY,
            None,
            None,
            0,
        )


@pytest.mark.parametrize("method", ["live", "savestate"])
def test_without_being_settled_first_a_vm_would_be_touched_for_nothing(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The guard removed: what the table above looks at does change."""

    def nothing(
        _work: Work, _method: Method, _machine: Machine, target: Target, *_: object, **__: object
    ) -> catalogue.Catalogue:
        return catalogue.Catalogue(target.directory)

    monkeypatch.setattr("worker.backup.export.preflight", nothing)
    (watched.rig.nas / "web01").write_text("a file")
    assert watched.tick(running=method).failed == ["web01"]
    assert watched.touches(watched.vm.uuid)
    assert watched.vm.info("VMState") == "running"


def test_a_vm_that_waits_for_room_is_no_failure_costs_no_commit_and_is_backed_up_when_there_is_some(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small = watched.rig.host().make_vm("small")
    watched.rig.look()
    with monkeypatch.context() as patch:
        _reserve_all(watched.rig, patch)
        assert watched.tick(running="savestate").exit_code == 13
        before = watched.rig.site().database.head().generation
        outcome = watched.tick(running="savestate")
        assert (outcome.exit_code, sorted(outcome.postponed), outcome.failed) == (
            13,
            ["small", "web01"],
            [],
        )
        assert watched.rig.site().database.head().generation == before
    record = watched.rig.record(small.name)
    assert record.waiting.startswith("waits for room on the NAS: it needs about ")
    assert (record.failures, record.last_failed_claim) == (0, 0)
    assert "are free" in caplog.text
    assert sorted(watched.tick(running="savestate").done) == ["small", "web01"]
    assert watched.rig.record("web01").waiting == ""


def test_what_earlier_attempts_left_in_the_directory_does_not_keep_a_vm_waiting(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cleared away before the export, so it counts as free."""
    (watched.rig.nas / "web01").mkdir()
    left = watched.rig.nas / "web01" / ".20261122T203800Z-1.1.partial.ova"
    left.write_bytes(b"")
    with left.open("r+b") as file:
        file.truncate(2**40)
    free = iter([0, 2**40])
    monkeypatch.setattr(admission, "check_nas", lambda nas, **_: replace(check_nas(nas), free=0))
    monkeypatch.setattr(
        method_module, "check_nas", lambda nas, **_: replace(check_nas(nas), free=next(free))
    )
    watched.rig.site().database.commit_once(
        lambda contents: replace(contents, claims_granted=5), "test", "test"
    )
    assert watched.tick(running="savestate").done == ["web01"]
    assert not left.exists()


def test_a_vm_that_was_stopped_in_vain_is_left_alone_for_ever_longer(watched: Watched) -> None:
    watched.rig.host().fault(watched.vm, export_fails_at=50)
    stopped = []
    for minutes in (0, 10, 20, 40, 50, 100, 112):
        watched.clock.ahead = timedelta(minutes=minutes)
        before = len(watched.touches("savestate"))
        outcome = watched.tick(running="savestate")
        assert watched.vm.info("VMState") == "running"
        if len(watched.touches("savestate")) > before:
            stopped.append(minutes)
            assert outcome.exit_code == 3
        else:
            assert (outcome.exit_code, outcome.postponed) == (0, ["web01"])
    assert stopped == [0, 20, 50, 112]
    record = watched.rig.record("web01")
    assert (record.failures, record.outages_failed) == (4, 4)
    watched.tick(running="savestate")
    noted = watched.rig.site().database.head()
    assert noted.contents.vms["web01"].waiting == (
        f"waits until {record.next_outage[:10]} {record.next_outage[11:16]}Z before it is "
        f"stopped again (4 failed backups)"
    )
    watched.tick(running="savestate")
    assert watched.rig.site().database.head().generation == noted.generation, "said once"


@pytest.fixture
def in_vain(watched: Watched) -> Watched:
    """A VM that was just saved for a backup that failed."""
    watched.rig.host().fault(watched.vm, export_fails_at=50)
    assert watched.tick(running="savestate").failed == ["web01"]
    watched.rig.host().mend()
    assert watched.tick(running="savestate").postponed == ["web01"]
    return watched


def test_an_operator_cuts_it_short_and_a_success_forgets_it(in_vain: Watched) -> None:
    assert planned(in_vain.site(running="savestate")) == []
    assert planned(in_vain.site(running="savestate"), "web01") == ["web01"]
    assert backup.run(in_vain.site(running="savestate"), only="web01").done == ["web01"]
    record = in_vain.rig.record("web01")
    assert (record.outages_failed, record.next_outage, record.waiting) == (0, "", "")
    assert in_vain.tick(running="savestate").done == ["web01"]


def test_a_vm_that_has_stopped_by_itself_meanwhile_is_backed_up_at_once(in_vain: Watched) -> None:
    in_vain.vm.stop()
    assert in_vain.tick(running="savestate").done == ["web01"]


def test_a_vm_that_may_be_copied_live_by_now_is_not_kept_waiting(in_vain: Watched) -> None:
    assert in_vain.tick(running="live").done == ["web01"]


def test_one_that_was_found_running_after_all_is_not_stopped_either(
    in_vain: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last look, under the claim, counts."""
    before = in_vain.touches()
    monkeypatch.setattr(admission, "judge_outage", lambda *_, **__: Readiness())
    assert in_vain.tick(running="savestate").postponed == ["web01"]
    assert in_vain.touches() == before


def test_a_guest_that_ignores_its_power_button_is_not_asked_at_each_tick(rig: Rig) -> None:
    vm = rig.host().make_vm("web01", delay=None)
    vm.start()
    rig.look()
    watched = Watched(rig, vm)
    settings = {"running": "shutdown", "shutdown_seconds": 0.2}
    assert watched.tick(**settings).deferred == ["web01"]
    for record in rig.site().database.head().contents.vms.values():
        assert (record.outages_failed, record.failures) == (1, 0)
    rig.site().database.commit_once(
        lambda contents: contents.with_vm(replace(contents.vms["web01"], power=None)),
        "as the next tick",
        "test",
    )
    assert watched.tick(**settings).postponed == ["web01"]
    assert len(watched.touches("acpipowerbutton")) == 1


def test_a_worker_that_dies_while_a_vm_is_saved_counts_as_one_that_failed(watched: Watched) -> None:
    site = watched.site(running="savestate")
    notifier.run(site)
    session = site.database.session("backup")
    with session:
        _, own = session.claim(
            lambda contents: claims.grant(contents, "web01", session.id, "backup", "now"), "claim"
        )
        session.commit(
            lambda contents: backup_rules.touch(
                contents, "web01", own, Power("savestate", "running", own.number)
            ),
            "savestate",
        )
        rows = deaths.live_sessions(site.database.head().contents)
        recovery.expire(
            watched.rig.site("beta").database,
            [Dead(row, "declared dead by the test") for row in rows],
            "test",
        )
    record = watched.rig.record("web01")
    assert (record.outages_failed, record.next_outage > timestamp(watched.clock.now())) == (1, True)


def test_an_engine_that_fails_costs_no_second_outage(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, parallel, "take_description", ZeroDivisionError("a fault"))
    assert watched.tick(running="savestate", engine="auto").done == ["web01"]
    assert len(watched.touches("savestate")) == 1


def test_the_hook_before_is_run_once_and_only_if_the_backup_is_tried(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = Path(watched.rig.folder / "hooks")
    before = ["/bin/sh", "-c", f"echo begun >>{noted}"]
    with monkeypatch.context() as patch:
        _reserve_all(watched.rig, patch)
        watched.tick(running="savestate", before=before)
    assert not noted.exists()
    failing(monkeypatch, parallel, "take_description", ZeroDivisionError("a fault"))
    watched.tick(running="savestate", engine="auto", before=before)
    assert noted.read_text() == "begun\n"
