"""Kinds of VMs on the real VirtualBox: backed up, or refused with the thing named."""

from pathlib import Path

import pytest

from shared.virtualbox.settings import parse_machine
from tests.support.fleet import Member
from tests.support.virtualbox import RealVm
from tests.support.waiting import wait_for

pytestmark = pytest.mark.virtualbox


def attach(vm: RealVm, controller: str, *kind: str) -> Path:
    """One more disk, at the second port of SATA or the first of another controller."""
    path = vm.host.vms / f"{vm.name}-{controller}.vdi"
    vm.host.run("createmedium", "disk", f"--filename={path}", "--size=8", "--variant=Fixed")
    port = 1 if controller == "SATA" else 0
    place = (f"--storagectl={controller}", f"--port={port}", "--device=0", "--type=hdd")
    vm.host.run("storageattach", vm.uuid, *place, f"--medium={path}", *kind)
    return path


def error(member: Member, key: str) -> str:
    return str(member.fleet.record(key).last_error)


def test_a_paused_vm_is_copied_live_and_one_with_a_disk_that_no_snapshot_freezes_is_not_touched(
    member: Member,
) -> None:
    paused, through = member.host.make_vm("paused"), member.host.make_vm("through")
    path = attach(through, "SATA", "--mtype=writethrough")
    member.configure("backup", running="live", running_hours=0)
    for vm in (paused, through):
        vm.start()
    member.host.run("controlvm", paused.uuid, "pause")
    member.worker("run", expect=3)
    assert [vm.info("VMState") for vm in (paused, through)] == ["paused", "running"]
    assert [member.fleet.record(vm.name).failures for vm in (paused, through)] == [0, 1]
    assert len(member.fleet.copies("paused")) == 1
    assert str(path) in error(member, "through")
    assert "writethrough" in error(member, "through")
    assert len(member.host.run("list", "vms").stdout.splitlines()) == 2
    for vm in (paused, through):
        assert parse_machine(vm.settings.read_bytes()).snapshots == ()
        vm.stop()


def test_what_virtualbox_would_not_import_is_exported_so_that_it_is_whole_again(
    member: Member,
) -> None:
    vm = member.host.make_vm("both")
    for kind, controller in (("scsi", "LSILogic"), ("sas", "LSILogicSAS")):
        words = (f"--name={kind}", f"--add={kind}", f"--controller={controller}")
        member.host.run("storagectl", vm.uuid, *words)
        attach(vm, kind)
    member.host.run("modifyvm", vm.uuid, f"--description={'né <&>' * 2000}")
    for engine in ("parallel", "vboxmanage"):
        member.configure("backup", engine=engine)
        member.host.run("setextradata", vm.uuid, "engine", engine)
        member.worker("run")
        copy = member.fleet.copies("both")[-1]
        assert copy.sidecar is not None
        assert copy.sidecar.engine == engine
        place = copy.directory / f"{copy.stamp}.ova"
        words = ("--vsys=0", f"--vmname=by-{engine}", f"--basefolder={member.host.vms}")
        member.host.run("import", place, *words, "--options=importtovdi")
        imported = RealVm(member.host, f"by-{engine}", f"by-{engine}")
        for slot in ("SATA-0-0", "scsi-0-0", "sas-0-0"):
            assert imported.info(slot).endswith(".vdi"), slot


def test_a_disk_that_cannot_be_reached_or_exported_is_named_and_the_nas_is_not_blamed(
    member: Member,
) -> None:
    remote, stick = member.host.make_vm("remote"), member.host.make_vm("stick")
    place = ("--storagectl=SATA", "--port=1", "--device=0", "--type=hdd", "--medium=iscsi")
    target = ("--server=127.0.0.1", "--target=iqn.2026-11.example:disk")
    member.host.run("storageattach", remote.uuid, *place, *target)
    member.host.run("storagectl", stick.uuid, "--name=usb", "--add=usb", "--controller=USB")
    path = attach(stick, "usb")
    member.worker("run", expect=3)
    assert "the iSCSI target of a disk does not answer" in error(member, "remote")
    assert "iqn.2026-11.example:disk" in error(member, "remote")
    assert f"{path} is on the USB controller 'usb'" in error(member, "stick")
    assert [member.fleet.record(name).failures for name in ("remote", "stick")] == [1, 1]


def test_a_vm_for_arm_is_backed_up_and_comes_back(member: Member) -> None:
    """Its description says what VirtualBox prints when it does not: only errors count."""
    host, said = member.host, "ARM: No network adapter in slot 8 (total 8 adapters)"
    words = ("--platform-architecture=arm", "--ostype=Other_arm64", f"--basefolder={host.vms}")
    made = host.run("createvm", "--name=arm", "--register", *words).stdout
    vm = RealVm(host, made.partition("UUID: ")[2].split()[0], "arm")
    host.run("modifyvm", vm.uuid, f"--description={said}")
    host.run("storagectl", vm.uuid, "--name=VirtIO", "--add=virtio-scsi", "--controller=VirtIO")
    attach(vm, "VirtIO")
    wait_for(lambda: host.processes() == [], "VBoxSVC to end")
    member.worker("run")
    assert (member.fleet.states(), len(member.fleet.copies("arm"))) == ({"arm": "CLEAN"}, 1)
    back = member.admin("restore", "arm", "--as", "back", "--to", str(host.vms / "back"), "--json")
    settings = Path(back.json["settings_file"]).read_text(encoding="utf-8")
    assert 'architecture="ARM"' in settings
    assert said in settings


def test_a_saved_vm_whose_memory_is_gone_and_vms_that_are_left_out(member: Member) -> None:
    saved, office = member.host.make_vm("saved"), member.host.make_vm("office1")
    saved.start()
    member.host.run("controlvm", saved.uuid, "savestate")
    saved.wait_for_state("saved")
    (memory,) = saved.settings.parent.rglob("*.sav")
    memory.unlink()
    member.host.run("modifyvm", office.uuid, "--groups=/office/second")
    member.configure('policy."the office"', group="/office", backup="never")
    member.worker("run")
    (copy,) = member.fleet.copies("saved")
    assert copy.sidecar is not None
    assert copy.sidecar.left_out == (f"its saved memory: {memory} is gone",)
    assert member.fleet.record("office1").left_out == '[policy."the office"] backup = "never"'
    assert "left out of backups" in member.run("vmbackup-admin", "status").stdout
