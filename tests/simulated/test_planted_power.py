"""What a record says that a backup has made on a host was written by whoever may write to the NAS:
nothing of the user's goes because of it, and no VM of theirs is started.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.state.records import Power
from shared.state.rules import unfinished
from tests.simulated.conftest import Rig
from worker import database, notifier, vmfind
from worker.backup import power_notes
from worker.backup import worker as backup

TOKEN = "0" * 31 + "1"


def plant(rig: Rig, **values: Any) -> None:
    """A live backup of web01 that never was, with this note of what it has made."""
    power = replace(Power("live", "poweroff", 1, TOKEN, node="alpha"), **values)
    site = rig.site()
    site.database.commit_once(
        lambda contents: contents.with_vm(replace(contents.vms["web01"], power=power)), "x", "test"
    )


@pytest.fixture
def victim(rig: Rig) -> Any:
    rig.host().make_vm("web01")
    vm = rig.host().make_vm("victim")
    rig.look()
    return vm


def test_no_vm_of_a_user_is_taken_for_a_clone(rig: Rig, victim: Any) -> None:
    """Not even if its folder is called like one of ours."""
    rig.host().run("modifyvm", victim.uuid, f"--name=vmbackup-{TOKEN}")
    for folder in (rig.host().vms / f"vmbackup-{TOKEN}", rig.host().vms):
        plant(rig, clone=victim.uuid, folder=str(folder))
        vmfind.run(rig.site())
        database.run(rig.site())
        assert victim.uuid in rig.host().run("list", "vms").stdout


def test_the_folder_of_the_vm_itself_is_never_that_of_a_clone(rig: Rig) -> None:
    """Where the note names none. What lies in that of a clone is closed and deleted."""
    vm = rig.host().make_vm("web01")
    rig.look()
    plant(rig, clone="", folder="")
    assert database.run(rig.site()).failed == []
    assert vm.disk.exists()
    assert rig.record("web01").power is None


def test_no_folder_goes_but_one_of_ours(rig: Rig, tmp_path: Path) -> None:
    rig.host().make_vm("web01")
    rig.look()
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "made-by-vmbackup.json.new").write_text("{}")
    plant(rig, clone="", folder=str(folder))
    database.run(rig.site())
    assert list(folder.iterdir())


def state(rig: Rig) -> str:
    return (
        rig.host()
        .run("showvminfo", "web01", "--machinereadable")
        .stdout.partition('VMState="')[2]
        .partition('"')[0]
    )


def stopped(rig: Rig, method: str) -> None:
    """The VM is off, as its user or a backup has left it."""
    vm = rig.host().make_vm("web01")
    rig.look()
    if method == "savestate":
        vm.start()
        rig.host().run("controlvm", vm.uuid, "savestate")


@pytest.mark.parametrize("found", ["running", "paused"])
@pytest.mark.parametrize("method", ["savestate", "shutdown"])
def test_no_vm_is_started_that_this_host_has_not_stopped(
    rig: Rig, method: str, found: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a loss of the state directory: it is told until the VM runs."""
    stopped(rig, method)
    before = state(rig)
    plant(rig, method=method, found=found, token="")
    for _ in (1, 2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert database.run(rig.site()).exit_code == 0
        assert state(rig) == before
        assert f"may still be {'saved' if method == 'savestate' else 'off'}" in caplog.text
        record = rig.record("web01")
        assert record.power is None
        assert record.power_left is not None
        assert unfinished.may_remain(record, record.power_left) in caplog.text
    rig.host().run("startvm", "web01", "--type=headless")
    caplog.clear()
    database.run(rig.site())
    assert (rig.record("web01").power_left, caplog.text) == (None, "")


def test_a_note_of_something_else_confirms_nothing(rig: Rig) -> None:
    """Of another backup, of another VM, or nonsense: only what the record says, word by word."""
    stopped(rig, "savestate")
    for number, values in enumerate(
        ({"claim": 2}, {"found": "paused"}, {"method": "shutdown"}, {"since": "2026"}, None)
    ):
        plant(rig, method="savestate", found="running", token="", since=str(number))
        rig.note_power("web01")
        (path,) = (rig.folder / "state-alpha").glob("power-*.json")
        note = json.loads(path.read_text())
        if values is None:
            note["uuid"] = "11111111-1111-4111-8111-111111111111"
        else:
            note["power"].update(values)
        path.write_text(json.dumps(note))
        database.run(rig.site())
        assert state(rig) == "saved"
    plant(rig, method="savestate", found="running", token="")
    rig.note_power("web01")
    database.run(rig.site())
    assert state(rig) == "running"


def test_what_died_before_it_was_noted_has_left_a_vm_that_runs(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    stopped(rig, "shutdown")
    rig.host().run("startvm", "web01", "--type=headless")
    plant(rig, method="shutdown", found="running", token="")
    database.run(rig.site())
    record = rig.record("web01")
    assert (record.power, record.power_left, state(rig)) == (None, None, "running")
    assert "may still be" not in caplog.text


@pytest.mark.parametrize("method", ["savestate", "shutdown"])
def test_what_cannot_be_noted_is_not_stopped(rig: Rig, method: str) -> None:
    """Nobody would start it again. It is a failure of its backup, and no outage."""
    rig.policies["*"] = {"running": method, "running_hours": 0}
    vm = rig.host().make_vm("web01")
    vm.start()
    site = rig.look()
    since = vm.info("VMStateChangeTime")
    power_notes.note_of(site, vm.uuid).path.mkdir()
    notifier.run(site)
    assert backup.run(site).failed == ["web01"]
    record = rig.record("web01")
    assert (record.failures, record.outages_failed, record.power) == (1, 0, None)
    assert "cannot remember what a backup did to a VM" in record.last_error
    assert (state(rig), vm.info("VMStateChangeTime")) == ("running", since)
