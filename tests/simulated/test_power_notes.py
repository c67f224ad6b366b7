"""A VM that a backup stopped is started again, also if the state database was lost meanwhile."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from shared.host.clock import SystemClock
from shared.host.host_identity import HostIdentity
from shared.state.records import Power
from shared.state.store import protocol
from shared.tasks import rebuilding
from tests.simulated.conftest import Rig
from tests.support.simulated.host import SimulatedVm
from worker import database, notifier, vmfind
from worker.backup import power_notes
from worker.backup import worker as backup

WHEN = "2026-11-22T20:38:00Z"
METHODS = {"savestate": "savestate", "shutdown": "poweroff"}


def interrupted(rig: Rig, method: str) -> SimulatedVm:
    """A VM with a copy that ran, and that a backup which died has stopped for the next one."""
    vm = rig.host().make_vm("web01")
    backup.run(rig.look())
    vm.start()
    notifier.run(rig.site())
    shutil.copytree(rig.nas / "vmstate", rig.folder / "older")
    power = Power(method, "running", 9, since=WHEN, node="alpha")  # type: ignore[arg-type]
    site = rig.site()
    head = site.database.commit_once(
        lambda contents: contents.with_vm(replace(contents.vms["web01"], power=power)),
        "what Work.note_power commits",
        "backup",
    )
    power_notes.remember(site, vm.uuid, power, head.header.session, head)
    rig.host().run("controlvm", vm.uuid, METHODS[method])
    return vm


def state(rig: Rig, vm: SimulatedVm) -> str:
    return rig.site().vboxmanage.info(vm.uuid).state


def notes(rig: Rig) -> list[Path]:
    return list((rig.folder / "state-alpha").glob("power-*.json"))


def rebuild(rig: Rig) -> None:
    configuration, clock = rig.site().configuration, SystemClock()
    identity = HostIdentity.of_this_machine("alpha", configuration.host.state_directory)
    shutil.rmtree(rig.nas / "vmstate")
    planned = rebuilding.plan(configuration, clock, 2.0)
    rebuilding.carry_out(configuration, clock, planned, identity)


@pytest.mark.parametrize("method", METHODS)
def test_by_the_host_that_noted_it_when_the_database_is_made_anew(rig: Rig, method: str) -> None:
    vm = interrupted(rig, method)
    rebuild(rig)
    assert rig.record("web01").power is None
    vmfind.run(rig.site("beta"))
    database.run(rig.site("beta"))
    assert state(rig, vm) in ("saved", "poweroff"), "another host starts nothing"
    database.run(rig.site())
    assert state(rig, vm) == "running"
    assert rig.record("web01").power is None
    assert notes(rig) == []
    vm.stop()
    database.run(rig.site())
    assert state(rig, vm) == "poweroff", "that is its user's business again"


def test_also_if_the_database_was_put_back_to_before_it(rig: Rig) -> None:
    vm = interrupted(rig, "savestate")
    shutil.rmtree(rig.nas / "vmstate")
    shutil.copytree(rig.folder / "older", rig.nas / "vmstate")
    site = rig.site()
    site.database.seen.accept(site.database.files.run(protocol.read_head()))
    database.run(rig.site())
    assert (state(rig, vm), notes(rig)) == ("running", [])


def test_while_the_database_knows_it_the_note_changes_nothing(rig: Rig) -> None:
    vm = interrupted(rig, "savestate")
    assert power_notes.take_over(rig.site()) == []
    database.run(rig.site())
    assert (state(rig, vm), notes(rig)) == ("running", [])


def test_not_where_the_vm_is_another_hosts_by_now(rig: Rig) -> None:
    vm = interrupted(rig, "savestate")
    rebuild(rig)
    settings = vm.settings
    rig.host().run("unregistervm", vm.uuid)
    rig.host("beta").run("registervm", settings)
    vmfind.run(rig.site("alpha"))
    vmfind.run(rig.site("beta"))
    assert rig.record("web01").node == "beta"
    database.run(rig.site("alpha"))
    database.run(rig.site("beta"))
    assert rig.site("beta").vboxmanage.info(vm.uuid).state == "saved"


def test_a_note_that_was_left_of_what_is_over_starts_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker died after it had brought the VM back, before it removed its note."""
    monkeypatch.setattr(power_notes, "forget", lambda *_: None)
    rig.policies["*"] = {"running": "savestate", "running_hours": 0}
    vm = rig.host().make_vm("web01")
    vm.start()
    notifier.run(rig.look())
    backup.run(rig.site())
    assert (state(rig, vm), len(notes(rig))) == ("running", 1)
    monkeypatch.undo()
    vm.stop()
    database.run(rig.site())
    assert (state(rig, vm), notes(rig)) == ("poweroff", [])


def test_a_backup_that_goes_well_leaves_no_note(rig: Rig) -> None:
    rig.policies["*"] = {"running": "savestate", "running_hours": 0}
    vm = rig.host().make_vm("web01")
    vm.start()
    notifier.run(rig.look())
    backup.run(rig.site())
    assert (state(rig, vm), notes(rig)) == ("running", [])
    assert rig.record("web01").last_copy is not None


@pytest.mark.parametrize("nonsense", [b"", b"{", b"[]", b'{"power": 7}', b'{"power": {}}', b"\xff"])
def test_a_note_that_is_nonsense_is_passed_over(rig: Rig, nonsense: bytes) -> None:
    rig.host().make_vm("web01")
    site = rig.look()
    path = power_notes.note_of(site, rig.record("web01").uuid).path
    path.write_bytes(nonsense)
    assert power_notes.take_over(site) == []
