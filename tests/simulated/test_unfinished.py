"""What a backup that died did to a VM: undone by its own host, and never by another."""

import logging
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from coordinator import dead_host_work
from shared.state.records import Power
from shared.state.rules import hosts, unfinished
from shared.state.sessions.session import Session
from tests.simulated.conftest import Rig
from tests.support.simulated.host import SimulatedVm
from worker import database, notifier, vmfind
from worker.backup import worker as backup

WHEN = "2026-11-22T20:38:00Z"
SAVED = Power("savestate", "running", 1, since=WHEN, node="alpha")


def saved(rig: Rig, **values: Any) -> SimulatedVm:
    """A VM of alpha that ran, and that a backup which died has saved."""
    vm = rig.host().make_vm("web01")
    vm.start()
    rig.look()
    rig.host().run("controlvm", vm.uuid, "savestate")
    change(rig, **{"power": SAVED, **values})
    rig.note_power("web01")
    return vm


def change(rig: Rig, **values: Any) -> None:
    rig.site().database.commit_once(
        lambda contents: contents.with_vm(replace(contents.vms["web01"], **values)),
        "a backup died",
        "test",
    )


def gone_over(rig: Rig, vm: SimulatedVm) -> None:
    """The VM is unregistered at alpha, and registered at beta."""
    settings = vm.settings
    rig.host().run("unregistervm", vm.uuid)
    rig.host("beta").run("registervm", settings)
    vmfind.run(rig.site("alpha"))
    vmfind.run(rig.site("beta"))
    assert rig.record("web01").node == "beta"


def state(rig: Rig, host: str, vm: SimulatedVm) -> str:
    return rig.site(host).vboxmanage.info(vm.uuid).state


def recovered(rig: Rig) -> None:
    """What `vmbackup-lock recover alpha` commits elsewhere."""
    rig.site("beta").database.commit_once(
        lambda contents: unfinished.leave_power(hosts.give_up(contents, "alpha", WHEN), ["web01"]),
        "recover alpha",
        "recover",
    )


def test_its_own_host_starts_it(rig: Rig) -> None:
    vm = saved(rig)
    assert database.run(rig.site()).done == ["web01"]
    assert state(rig, "alpha", vm) == "running"
    assert rig.record("web01").power is None


@pytest.mark.parametrize("power", [SAVED, replace(SAVED, node="")])
def test_a_host_to_which_it_was_moved_does_not_start_it_and_says_so(
    rig: Rig, caplog: pytest.LogCaptureFixture, power: Power
) -> None:
    vm = saved(rig, power=power)
    gone_over(rig, vm)
    with caplog.at_level(logging.WARNING):
        assert database.run(rig.site("beta")).exit_code == 0
    assert state(rig, "beta", vm) == "saved"
    assert "a backup saved it on alpha" in caplog.text
    record = rig.record("web01")
    assert (record.power, record.power_left) == (None, None)


def test_a_host_whose_vm_is_gone_lets_go_of_it(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    vm = saved(rig)
    settings = vm.settings
    rig.host().run("unregistervm", vm.uuid)
    vmfind.run(rig.site())
    assert database.run(rig.site()).exit_code == 0
    assert (rig.record("web01").power, rig.record("web01").power_left) == (None, SAVED)
    rig.host().run("registervm", settings)
    vmfind.run(rig.site())
    for _ in (1, 2):
        caplog.clear()
        database.run(rig.site())
        assert "may still be saved" in caplog.text
        assert rig.record("web01").power_left == SAVED
    vm.start()
    caplog.clear()
    database.run(rig.site())
    assert "may still be saved" not in caplog.text
    assert rig.record("web01").power_left is None


def test_one_that_is_only_out_of_sight_of_a_recoverer_keeps_its_note(rig: Rig) -> None:
    vm = saved(rig, missing_since=WHEN)
    assert database.run(rig.site()).done == ["web01"]
    assert state(rig, "alpha", vm) == "running"


class TestTheHostComesBack:
    def test_it_starts_nothing_and_says_what_may_be_off(
        self, rig: Rig, caplog: pytest.LogCaptureFixture
    ) -> None:
        vm = saved(rig)
        recovered(rig)
        database.run(rig.site())
        assert "may still be" not in caplog.text, "vmfind has not yet found the VM again"
        vmfind.run(rig.site())
        for said in (1, 2):
            assert database.run(rig.site()).exit_code == 0
            assert caplog.text.count("may still be saved") == said
        assert state(rig, "alpha", vm) == "saved"
        assert rig.record("web01").power_left == SAVED
        dead_host_work.accept_left(rig.site("beta"))
        assert rig.record("web01").power_left == SAVED, "that is said on its own host"
        dead_host_work.accept_left(rig.site())
        assert rig.record("web01").power_left is None

    def test_nothing_is_said_of_a_vm_that_runs(
        self, rig: Rig, caplog: pytest.LogCaptureFixture
    ) -> None:
        vm = saved(rig)
        recovered(rig)
        vm.start()
        vmfind.run(rig.site())
        database.run(rig.site())
        assert "may still be" not in caplog.text
        assert rig.record("web01").power_left is None

    def test_a_snapshot_and_a_clone_are_told_and_left(
        self, rig: Rig, caplog: pytest.LogCaptureFixture
    ) -> None:
        tag, made = f"vmbackup-{'0a0b' * 8}", (str(UUID(int=1)), str(UUID(int=2)))
        live = Power("live", "running", 1, "0a0b" * 8, *made, f"/vms/x/{tag}", WHEN, "alpha")
        saved(rig, power=live)
        recovered(rig)
        vmfind.run(rig.site())
        database.run(rig.site())
        assert tag in caplog.text
        assert rig.record("web01").power_left is None


def test_a_backup_notes_when_and_where_it_touched_the_vm(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = rig.host().make_vm("web01")
    rig.look()
    vm.start()
    rig.look()
    noted: list[Power] = []
    touch = Session.commit

    def seen(session: Any, made: Any, reason: str) -> Any:
        snapshot = touch(session, made, reason)
        if power := snapshot.contents.vms["web01"].power:
            noted.append(power)
        return snapshot

    monkeypatch.setattr(Session, "commit", seen)
    site = rig.site(running="savestate", running_hours=0)
    notifier.run(site)
    assert backup.run(site).done == ["web01"]
    assert {power.node for power in noted} == {"alpha"}
    assert len({power.since for power in noted}) == 1
    assert noted[0].since
