"""Snapshots, linked clones, and with them the backup of a VM that runs."""

import re
import shutil
from pathlib import Path

from tests.contract.exporting import PROGRESS, check_manifest, export, members
from tests.support.hosts import VirtualBoxHost, VirtualMachine

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def clone(host: VirtualBoxHost, vm: VirtualMachine, folder: Path) -> str:
    """Makes a linked clone of the snapshot `tag`; its UUID."""
    words = [
        "--snapshot",
        "tag",
        "--mode",
        "machine",
        "--options",
        "Link",
        "--name",
        f"{vm.name}-bk",
        "--basefolder",
        str(folder),
    ]
    cloned = host.run("clonevm", vm.uuid, *words, "--register")
    assert (cloned.stdout, cloned.stderr) == (
        f'Machine has been successfully cloned as "{vm.name}-bk"\n',
        PROGRESS,
    )
    return re.findall(
        rf'^"{vm.name}-bk" {{({UUID})}}$', host.run("list", "vms").stdout, re.MULTILINE
    )[0]


def test_backup_of_a_running_vm(host: VirtualBoxHost, vm: VirtualMachine, folder: Path) -> None:
    vm.start()
    taken = host.run("snapshot", vm.uuid, "take", "tag", "--live")
    assert re.fullmatch(rf"Snapshot taken\. UUID: {UUID}\n", taken.stdout)
    assert vm.info("VMState") == "running"
    bk = clone(host, vm, folder)
    refused = host.run("snapshot", vm.uuid, "delete", "tag", check=False)
    assert refused.returncode == 1
    assert f"Hard disk '{vm.disk}' has more than one child hard disk (2)\n" in refused.stderr
    assert vm.info("VMState") == "running"
    done = host.run(
        "export",
        bk,
        "--ovf20",
        "--manifest",
        f"--output={folder}/x.ova",
        "--vsys=0",
        f"--vmname={vm.name}",
    )
    assert done.stdout == "Successfully exported 1 machine(s).\n"
    check_manifest(folder / "x.ova")
    assert members(folder / "x.ova")[1] == f"{vm.name}-bk-disk001.vmdk"
    host.run("unregistervm", bk, "--delete")
    assert not (folder / f"{vm.name}-bk").exists()
    deleted = host.run("snapshot", vm.uuid, "delete", "tag")
    assert re.fullmatch(rf"Deleting snapshot 'tag' \({UUID}\)\n", deleted.stdout)
    assert (vm.info("VMState"), vm.info("SATA-0-0"), vm.info("CurrentSnapshotUUID")) == (
        "running",
        str(vm.disk),
        "",
    )
    vm.stop()
    assert vm.counter() > 0
    assert [path.name for path in (vm.settings.parent / "Snapshots").iterdir()] == []


def test_the_disk_of_a_linked_clone_is_listed_with_the_vm_it_comes_from(
    host: VirtualBoxHost, vm: VirtualMachine, folder: Path
) -> None:
    host.run("snapshot", vm.uuid, "take", "tag")
    bk = clone(host, vm, folder)
    settings = folder / f"{vm.name}-bk" / f"{vm.name}-bk.vbox"
    disk = re.findall(rf'<Image uuid="{{({UUID})}}"', settings.read_text(encoding="utf-8"))[0]
    assert "<HardDisk " not in settings.read_text(encoding="utf-8")
    location = f"{folder}/{vm.name}-bk/Snapshots/{{{disk}}}.vdi"
    assert (
        f'<HardDisk uuid="{{{disk}}}" location="{location}" format="VDI"/>'
        in vm.settings.read_text(encoding="utf-8")
    )
    assert (
        f"Parent UUID:    {vm.info('SATA-ImageUUID-0-0')}"
        not in host.run("showmediuminfo", "disk", location).stdout
    )
    host.run("unregistervm", bk, "--delete")
    assert disk not in vm.settings.read_text(encoding="utf-8")
    host.run("snapshot", vm.uuid, "delete", "tag")


def test_a_snapshot_in_the_settings_and_in_showvminfo(
    host: VirtualBoxHost, vm: VirtualMachine
) -> None:
    base = vm.info("SATA-ImageUUID-0-0")
    host.run("snapshot", vm.uuid, "take", "tag")
    snapshot, disk = vm.info("CurrentSnapshotUUID"), vm.info("SATA-ImageUUID-0-0")
    location = f"Snapshots/{{{disk}}}.vdi"
    text = vm.settings.read_text(encoding="utf-8")
    assert f' currentSnapshot="{{{snapshot}}}"' in text
    assert re.search(rf'<Snapshot uuid="{{{snapshot}}}" name="tag" timeStamp="[-0-9T:]+Z">', text)
    assert f'<HardDisk uuid="{{{base}}}" location="{vm.disk}" format="VDI" type="Normal">' in text
    assert f'<HardDisk uuid="{{{disk}}}" location="{location}" format="VDI"/>' in text
    assert re.findall(rf'<Image uuid="{{({UUID})}}"', text) == [base, disk], (
        "first that of the snapshot, then the current one"
    )
    assert vm.info("SATA-0-0") == f"{vm.settings.parent}/{location}"
    medium = host.run("showmediuminfo", "disk", vm.info("SATA-0-0")).stdout
    assert f"Parent UUID:    {base}\n" in medium
    assert "Type:           normal (differencing)\n" in medium
    listed = host.run("snapshot", vm.uuid, "list", "--machinereadable").stdout
    assert listed == (
        f'SnapshotName="tag"\nSnapshotUUID="{snapshot}"\nCurrentSnapshotName="tag"\nCurrentSnapshotUUID="{snapshot}"\n'
        'CurrentSnapshotNode="SnapshotName"\n'
    )
    assert host.run("snapshot", vm.uuid, "list").stdout == f"   Name: tag (UUID: {snapshot}) *\n"


def test_names_of_snapshots_are_not_escaped(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    """They can forge lines, and come after those that count."""
    host.run("snapshot", vm.uuid, "take", 'x"\nVMState="saved')
    states = re.findall(
        r'^VMState="(.*)"$',
        host.run("showvminfo", vm.uuid, "--machinereadable").stdout,
        re.MULTILINE,
    )
    assert states[0] == "poweroff"
    assert set(states[1:]) == {"saved"}


def test_what_is_refused(host: VirtualBoxHost, vm: VirtualMachine, folder: Path) -> None:
    none = host.run("snapshot", vm.uuid, "list", check=False)
    assert (none.returncode, none.stdout) == (1, "This machine does not have any snapshots\n")
    words = [
        "--mode=machine",
        "--options=Link",
        f"--name={vm.name}-bk",
        f"--basefolder={folder}",
        "--register",
    ]
    refused = host.run("clonevm", vm.uuid, *words, check=False)
    assert refused.stderr.startswith(
        "VBoxManage: error: Linked clone can only be created from a snapshot\n"
    )
    host.run("snapshot", vm.uuid, "take", "tag")
    for action in ("restore", "delete"):
        refused = host.run("snapshot", vm.uuid, action, "no such", check=False)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith(
            "VBoxManage: error: Could not find a snapshot named 'no such'\n"
        )
    host.run("startvm", vm.uuid, "--type=headless")
    refused = host.run("snapshot", vm.uuid, "restore", "tag", check=False)
    assert refused.returncode == 1
    vm.stop()


def test_an_export_has_the_current_state_only(
    host: VirtualBoxHost, vm: VirtualMachine, folder: Path
) -> None:
    host.run("snapshot", vm.uuid, "take", "one")
    host.run("snapshot", vm.uuid, "take", "two")
    assert export(host, vm, folder / "x.ova").returncode == 0
    assert members(folder / "x.ova") == ["x.ovf", f"{vm.name}-disk001.vmdk", "x.mf"]
    check_manifest(folder / "x.ova")


CHOSEN = "11111111-2222-4333-8444-55555555555"


def test_a_linked_clone_takes_the_uuid_that_was_chosen_and_extra_data_along(
    host: VirtualBoxHost, vm: VirtualMachine, folder: Path
) -> None:
    host.run("setextradata", vm.uuid, "user/key", "value")
    snapshot = host.run("snapshot", vm.uuid, "take", "tag").stdout.split()[-1]
    words = [
        f"--snapshot={snapshot}",
        "--mode=machine",
        "--options=Link",
        f"--name={vm.name}-bk",
        f"--basefolder={folder}",
        "--register",
    ]
    host.run("clonevm", vm.uuid, *words, f"--uuid={CHOSEN}1")
    assert f'"{vm.name}-bk" {{{CHOSEN}1}}' in host.run("list", "vms").stdout
    assert host.run("getextradata", f"{CHOSEN}1", "user/key").stdout == "Value: value\n"
    twice = [word.replace(f"{vm.name}-bk", f"{vm.name}-again") for word in words]
    refused = host.run("clonevm", vm.uuid, *twice, f"--uuid={CHOSEN}1", check=False)
    assert refused.returncode == 1
    assert f"Registered machine with UUID {{{CHOSEN}1}}" in refused.stderr
    assert (folder / f"{vm.name}-again" / f"{vm.name}-again.vbox").exists(), (
        "it is noticed when all is made, and all is left"
    )
    assert f"{vm.name}-again" in vm.settings.read_text(encoding="utf-8"), (
        "its disk is listed with the VM"
    )


def test_unregistering_a_clone_without_delete_closes_its_disks_and_leaves_the_files(
    host: VirtualBoxHost, vm: VirtualMachine, folder: Path
) -> None:
    """With `--delete`, a disk of the user that is attached to it is deleted as well."""
    host.run("snapshot", vm.uuid, "take", "tag")
    for delete in ([], ["--delete"]):
        bk, mine = clone(host, vm, folder), folder / f"mine-{len(delete)}.vdi"
        (disk,) = (folder / f"{vm.name}-bk" / "Snapshots").iterdir()
        host.run("createmedium", "disk", "--filename", mine, "--size", "4")
        host.run(
            "storageattach", bk, "--storagectl=SATA", "--port=3", "--type=hdd", f"--medium={mine}"
        )
        host.run("unregistervm", bk, *delete)
        assert (mine.exists(), disk.exists()) == (not delete, not delete)
        assert disk.name not in vm.settings.read_text(encoding="utf-8")
        shutil.rmtree(folder / f"{vm.name}-bk", ignore_errors=True)
    host.run("snapshot", vm.uuid, "delete", "tag")


def test_a_vm_takes_what_is_in_its_folder_along_when_it_is_renamed(
    host: VirtualBoxHost, vm: VirtualMachine
) -> None:
    host.run("snapshot", vm.uuid, "take", "tag")
    ours = vm.settings.parent / "ours"
    ours.mkdir()
    bk = clone(host, vm, ours)
    host.run("modifyvm", vm.uuid, f"--name={vm.name}-new")
    moved = vm.settings.parent.parent / f"{vm.name}-new" / "ours"
    assert (ours.exists(), moved.exists()) == (False, True)
    registry = (host.home / "VirtualBox.xml").read_text(encoding="utf-8")
    assert f'src="{ours}/{vm.name}-bk/{vm.name}-bk.vbox"' in registry, (
        "the clone is registered at its old place"
    )
    host.run("unregistervm", bk)
