"""Kinds of VMs: each is backed up, or refused with the thing named, which is a failure."""

from dataclasses import replace
from pathlib import Path

import pytest

from shared.copies import catalogue
from shared.copies.sidecar import Sidecar
from shared.state.records import Power
from shared.state.states import State
from shared.virtualbox import scratch
from tests.simulated.conftest import Rig
from tests.support.simulated.host import SimulatedVm
from worker import database
from worker.backup import undo
from worker.backup import worker as backup

LIVE = {"running": "live", "running_hours": 0}


def attach(rig: Rig, vm: SimulatedVm, kind: str = "normal", *, on: str = "SATA") -> Path:
    """A second disk of this type."""
    path = rig.host().vms / f"{vm.name}-{kind}.vdi"
    if not path.exists():
        rig.host().run("createmedium", "disk", f"--filename={path}", "--size=8")
    place = (f"--storagectl={on}", "--port=1", "--device=0", "--type=hdd")
    rig.host().run("storageattach", vm.uuid, *place, f"--medium={path}", f"--mtype={kind}")
    return path


def tick(rig: Rig, **settings: object) -> backup.Report:
    rig.policies = {"*": dict(settings)}
    return backup.run(rig.look())


def refused(rig: Rig, *words: str, **settings: object) -> None:
    """The backup of web01 fails, says all of this, and makes nothing in VirtualBox."""
    before = rig.host().run("list", "vms").stdout
    report = tick(rig, **settings)
    assert (report.failed, report.exit_code) == (["web01"], 3)
    record = rig.record("web01")
    assert (record.failures, record.power, record.status) == (1, None, State.BACKUP_NECESSARY)
    assert [word for word in words if word not in record.last_error] == []
    assert rig.host().run("list", "vms").stdout == before
    assert (
        "CurrentSnapshot"
        not in rig.host().run("showvminfo", record.uuid, "--machinereadable").stdout
    )


def sidecar(rig: Rig) -> Sidecar:
    latest = catalogue.read(rig.nas / "web01", None).latest_good
    assert latest is not None
    assert latest.sidecar is not None
    return latest.sidecar


@pytest.mark.parametrize("kind", ["writethrough", "shareable"])
def test_a_disk_that_no_snapshot_freezes_is_refused_live_before_anything_is_touched(
    rig: Rig, kind: str
) -> None:
    vm = rig.host().make_vm("web01")
    path = attach(rig, vm, kind)
    vm.start()
    refused(rig, str(path), kind, **LIVE)
    assert vm.info("VMState") == "running"
    assert tick(rig, running="savestate", running_hours=0).done == ["web01"]
    assert vm.info("VMState") == "running"


def test_one_that_is_off_is_exported_as_it_is_instead_of_from_a_clone(rig: Rig) -> None:
    attach(rig, rig.host().make_vm("web01"), "writethrough")
    assert tick(rig, live_when_stopped=True).done == ["web01"]


def test_a_paused_vm_is_copied_live_and_stays_paused(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    vm.start()
    rig.host().run("controlvm", vm.uuid, "pause")
    assert tick(rig, **LIVE).done == ["web01"]
    assert vm.info("VMState") == "paused"
    assert rig.record("web01").power is None


def test_a_live_backup_of_an_earlier_release_is_undone_although_its_clone_has_a_disk_that_runs(
    rig: Rig,
) -> None:
    """The clone stayed for ever, because the VM's own disk is never free."""
    vm = rig.host().make_vm("web01")
    attach(rig, vm, "writethrough")
    vm.start()
    rig.look()
    site = rig.site()
    machine = site.inventory()[vm.uuid]
    power = Power("live", "running", 1, "0" * 32, "11111111-1111-4111-8111-111111111111")
    power = replace(power, folder=str(Path(machine.settings_file).parent / power.tag))
    made, clones = undo.made_by(power), undo.clones_of(site)
    scratch.make(made.folder, scratch.Mark(made.name, made.clone))
    made = clones.take(machine, made)
    clones.clone(machine, made)
    power = replace(power, snapshot=made.snapshot)
    site.database.commit_once(
        lambda contents: contents.with_vm(replace(contents.vms["web01"], power=power)), "t", "t"
    )
    assert database.run(rig.site()).exit_code == 0
    assert rig.record("web01").power is None
    assert not made.folder.exists()
    assert len(rig.host().run("list", "vms").stdout.splitlines()) == 1
    assert vm.info("VMState") == "running"


def test_a_disk_on_a_usb_controller_is_named(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    rig.host().run("storagectl", vm.uuid, "--name=Stick", "--add=usb", "--controller=USB")
    path = attach(rig, vm, on="Stick")
    refused(rig, str(path), "USB controller 'Stick'")


def with_cd(rig: Rig, controller: str = "USB") -> tuple[SimulatedVm, Path]:
    """A VM with an image in a CD drive there."""
    vm = rig.host().make_vm("web01")
    image = rig.host().vms / "tools.iso"
    image.write_bytes(bytes(4096))
    words = ("--name=Stick", f"--add={controller}", f"--controller={controller}")
    rig.host().run("storagectl", vm.uuid, *words)
    place = ("--storagectl=Stick", "--port=0", "--device=0", "--type=dvddrive")
    rig.host().run("storageattach", vm.uuid, *place, f"--medium={image}")
    return vm, image


@pytest.mark.parametrize("runs", [False, True])
def test_what_is_in_a_drive_on_a_usb_controller_is_taken_out_of_a_clone_and_stays_in_the_vm(
    rig: Rig, runs: bool
) -> None:
    vm, image = with_cd(rig)
    if runs:
        vm.start()
    assert tick(rig, **LIVE).done == ["web01"]
    assert f'location="{image}"' in vm.settings.read_text(encoding="utf-8")
    assert vm.info("VMState") == ("running" if runs else "poweroff")
    assert rig.host().run("list", "vms").stdout.count("\n") == 1
    memory = "its memory, as the image in its CD drive at Stick 0 had to be taken out of a clone"
    assert (memory in sidecar(rig).left_out) == runs
    assert f"the image in its CD drive at Stick 0: {image}" in sidecar(rig).left_out


def test_what_is_in_a_drive_on_a_usb_controller_is_named_before_its_vm_is_stopped(rig: Rig) -> None:
    vm, image = with_cd(rig)
    vm.start()
    refused(rig, str(image), "USB controller 'Stick'", running="savestate", running_hours=0)
    assert vm.info("VMState") == "running"
    rig.host().run("controlvm", vm.uuid, "savestate")
    rig.look()
    assert backup.run(rig.site()).failed == ["web01"]
    assert vm.info("VMState") == "saved"


def test_a_disk_that_no_snapshot_freezes_beside_such_a_drive_is_not_cloned(rig: Rig) -> None:
    vm, image = with_cd(rig)
    attach(rig, vm, "writethrough")
    refused(rig, str(image), "USB controller 'Stick'")


def test_an_image_in_another_drive_is_left_out_and_does_no_harm(rig: Rig) -> None:
    _, image = with_cd(rig, "PIIX4")
    assert tick(rig).done == ["web01"]
    assert sidecar(rig).left_out == (f"the image in its CD drive at Stick 0: {image}",)


def test_a_disk_that_another_vm_writes_to_is_named_with_that_vm(rig: Rig) -> None:
    vm, other = rig.host().make_vm("web01"), rig.host().make_vm("node2")
    path = attach(rig, vm, "shareable")
    place = ("--storagectl=SATA", "--port=1", "--device=0", "--type=hdd")
    rig.host().run("storageattach", other.uuid, *place, f"--medium={path}")
    other.start()
    rig.look()
    report = backup.run(rig.site())
    assert report.failed == ["web01"]
    assert f"{path} is shared with the VM 'node2', which runs" in rig.record("web01").last_error
    other.stop()
    rig.look()
    assert backup.run(rig.site()).failed == []
    assert rig.record("web01").status == State.CLEAN


def test_a_saved_vm_whose_memory_is_gone_is_backed_up_and_says_so(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    vm.start()
    rig.host().run("controlvm", vm.uuid, "savestate")
    (memory,) = vm.settings.parent.rglob("*.sav")
    memory.unlink()
    assert tick(rig).done == ["web01"]
    assert sidecar(rig).left_out == (f"its saved memory: {memory} is gone",)
    assert set(sidecar(rig).files) == {"vbox"}


@pytest.mark.parametrize(
    ("state", "running"),
    [
        *(("gurumeditation", "defer"), ("gurumeditation", "live")),
        *(("teleported", "savestate"), ("teleportingin", "defer"), ("teleportingin", "shutdown")),
    ],
)
def test_a_state_that_ends_by_nothing_is_a_failure_and_not_waited_for(
    rig: Rig, state: str, running: str
) -> None:
    vm = rig.host().make_vm("web01")
    rig.look()
    rig.host().fault(vm, shown_state=state)
    refused(rig, state, running=running)
