"""What makes one VM another kind than the next: its settings, its export, and what imports it."""

import threading
from pathlib import Path

import pytest

from shared.export.exporter import Exporter, VBoxManageExporter
from shared.export.parallel import ParallelExporter
from shared.host.clock import SystemClock
from shared.host.processes import SubprocessRunner
from shared.ova import scsi
from shared.ova.check import check_ova
from shared.virtualbox.export_checks import unfrozen_disk
from shared.virtualbox.export_words import LONGEST_DESCRIPTION
from shared.virtualbox.import_trial import refusal
from shared.virtualbox.inventory import Machine, take_inventory
from shared.virtualbox.settings import parse_machine
from shared.virtualbox.usb_drives import eject_from_clone, filled_usb_drives
from shared.virtualbox.vboxmanage import VBoxManage
from tests.contract.exporting import export
from tests.support.hosts import VirtualBoxHost, VirtualMachine


@pytest.fixture
def vboxmanage(host: VirtualBoxHost) -> VBoxManage:
    return VBoxManage(str(host.vboxmanage), SubprocessRunner(), 120)


def machine(host: VirtualBoxHost, vboxmanage: VBoxManage, vm: VirtualMachine) -> Machine:
    return take_inventory(vboxmanage, host.home, SystemClock().sleep)[vm.uuid]


def attach(host: VirtualBoxHost, vm: VirtualMachine, kind: str, controller: str) -> None:
    """One more disk, on one more controller, which is called after its kind."""
    path = host.vms / f"{vm.name}-{kind}.vdi"
    host.run("createmedium", "disk", f"--filename={path}", "--size=8")
    host.run("storagectl", vm.uuid, f"--name={kind}", f"--add={kind}", f"--controller={controller}")
    place = (f"--storagectl={kind}", "--port=0", "--device=0", "--type=hdd")
    host.run("storageattach", vm.uuid, *place, f"--medium={path}")


def exporters(vboxmanage: VBoxManage, scratch: Path) -> dict[str, Exporter]:
    return {
        "vboxmanage": VBoxManageExporter(vboxmanage),
        "parallel": ParallelExporter(vboxmanage, SystemClock(), scratch=scratch, cores=2),
    }


def written(exporter: Exporter, what: Machine, target: Path) -> Path:
    running, waiting = exporter.start(what, target), threading.Event()
    while not running.poll():
        waiting.wait(0.05)
    running.result()
    return target


def test_groups_extra_data_and_description_are_in_the_settings_file(
    host: VirtualBoxHost, vm: VirtualMachine
) -> None:
    before = parse_machine(vm.settings.read_bytes())
    assert (before.groups, before.wish, before.description) == ((), "", "")
    host.run("setextradata", vm.uuid, "vmbackup/backup", "never")
    host.run("modifyvm", vm.uuid, "--groups=/office,/lab/second floor", "--description=a\n<b> é")
    after = parse_machine(vm.settings.read_bytes())
    assert (sorted(after.groups), after.wish) == (["/lab/second floor", "/office"], "never")
    assert after.description == "a\n<b> é"


def test_a_trial_imports_nothing(
    host: VirtualBoxHost, vm: VirtualMachine, vboxmanage: VBoxManage, folder: Path
) -> None:
    assert export(host, vm, folder / "x.ova").returncode == 0
    before = host.run("list", "vms").stdout
    assert refusal(vboxmanage, folder / "x.ova") == ""
    assert host.run("list", "vms").stdout == before
    assert [path.name for path in folder.iterdir()] == ["x.ova"]


@pytest.mark.parametrize(
    ("text", "imported"),
    [
        ("x" * LONGEST_DESCRIPTION, True),
        ("x" * (LONGEST_DESCRIPTION + 1), False),
        ("é" * (LONGEST_DESCRIPTION // 2), True),
        ("é" * (LONGEST_DESCRIPTION // 2 + 1), False),
    ],
    ids=["longest", "longer", "longest in bytes", "longer in bytes"],
)
def test_a_long_description_is_exported_and_not_imported(
    host: VirtualBoxHost, vboxmanage: VBoxManage, folder: Path, text: str, imported: bool
) -> None:
    vm = host.make_vm(f"described-{len(text.encode())}-{text[0].isascii()}")
    host.run("modifyvm", vm.uuid, f"--description={text}")
    assert export(host, vm, folder / "x.ova").returncode == 0
    said = refusal(vboxmanage, folder / "x.ova")
    assert (said == "") == imported
    assert imported or "Element 'Annotation' exceeds limit of 8192 bytes" in said


def test_scsi_and_sas_in_one_vm_are_exported_and_not_imported_until_it_is_mended(
    host: VirtualBoxHost, vm: VirtualMachine, vboxmanage: VBoxManage, folder: Path
) -> None:
    attach(host, vm, "scsi", "LSILogic")
    attach(host, vm, "sas", "LSILogicSAS")
    assert export(host, vm, folder / "x.ova").returncode == 0
    assert "Cannot find storage controller with OVF instance ID" in refusal(
        vboxmanage, folder / "x.ova"
    )
    size = (folder / "x.ova").stat().st_size
    scsi.mend(folder, "x.ova")
    assert refusal(vboxmanage, folder / "x.ova") == ""
    assert (folder / "x.ova").stat().st_size == size == check_ova(folder, "x.ova").size
    before = (folder / "x.ova").read_bytes()
    scsi.mend(folder, "x.ova")
    assert (folder / "x.ova").read_bytes() == before


@pytest.mark.parametrize("engine", ["vboxmanage", "parallel"])
def test_each_engine_exports_such_a_vm_so_that_it_is_imported(
    host: VirtualBoxHost, vboxmanage: VBoxManage, folder: Path, engine: str
) -> None:
    vm = host.make_vm(f"both-{engine}")
    attach(host, vm, "scsi", "LSILogic")
    attach(host, vm, "sas", "LSILogicSAS")
    host.run("modifyvm", vm.uuid, f"--description={'né <&>' * 2000}")
    what = machine(host, vboxmanage, vm)
    target = written(exporters(vboxmanage, folder / "scratch")[engine], what, folder / "x.ova")
    scsi.mend(folder, target.name)
    check_ova(folder, target.name)
    assert refusal(vboxmanage, target) == ""


def test_a_disk_on_a_usb_controller_is_not_exported(
    host: VirtualBoxHost, vm: VirtualMachine, folder: Path
) -> None:
    attach(host, vm, "usb", "USB")
    done = host.run("export", vm.uuid, f"--output={folder}/x.ova", check=False)
    assert done.returncode == 1
    assert "storageBus is 6" in done.stderr


def iso(host: VirtualBoxHost, vm: VirtualMachine) -> Path:
    """The image of a CD with nothing on it."""
    path = host.vms / f"{vm.name}.iso"
    volume = b"\x01CD001\x01" + bytes(2041) + b"\xffCD001\x01" + bytes(2041)
    path.write_bytes(bytes(32768) + volume)
    return path


def insert(host: VirtualBoxHost, vm: VirtualMachine, controller: str, what: Path | str) -> int:
    """Puts an image, or `emptydrive`, into a CD drive there; VirtualBox's exit code."""
    place = (f"--storagectl={controller}", "--port=0", "--device=0", "--type=dvddrive")
    return host.run("storageattach", vm.uuid, *place, f"--medium={what}", check=False).returncode


@pytest.mark.parametrize(
    ("kind", "controller", "exported"),
    [("usb", "USB", False), ("ide", "PIIX4", True), ("scsi", "LSILogic", True)],
)
def test_what_is_in_a_drive_on_a_usb_controller_keeps_a_vm_from_being_exported(
    host: VirtualBoxHost,
    vboxmanage: VBoxManage,
    folder: Path,
    kind: str,
    *,
    controller: str,
    exported: bool,
) -> None:
    vm = host.make_vm(f"drive-{kind}")
    host.run("storagectl", vm.uuid, "--name=cd", f"--add={kind}", f"--controller={controller}")
    assert insert(host, vm, "cd", iso(host, vm)) == 0
    found = filled_usb_drives(machine(host, vboxmanage, vm))
    assert [drive.place for drive in found] == ([] if exported else [str(iso(host, vm))])
    done = host.run("export", vm.uuid, f"--output={folder}/full.ova", check=False)
    assert (done.returncode, "storageBus is 6" in done.stderr) == (1 - exported, not exported)
    assert insert(host, vm, "cd", "emptydrive") == 0
    assert filled_usb_drives(machine(host, vboxmanage, vm)) == ()
    host.run("export", vm.uuid, f"--output={folder}/empty.ova")


def test_no_drive_of_a_vm_with_saved_memory_is_changed_and_a_clone_has_drives_of_its_own(
    host: VirtualBoxHost, vm: VirtualMachine, vboxmanage: VBoxManage, folder: Path
) -> None:
    host.run("modifyvm", vm.uuid, "--usb-ohci=on")
    host.run("storagectl", vm.uuid, "--name=cd", "--add=usb", "--controller=USB")
    assert insert(host, vm, "cd", iso(host, vm)) == 0
    vm.start()
    host.run("snapshot", vm.uuid, "take", "tag", "--live")
    words = ("--mode=machine", "--options=Link", "--snapshot=tag", "--name=clone-of-drive")
    host.run("clonevm", vm.uuid, *words, f"--basefolder={host.vms}", "--register")
    everything = take_inventory(vboxmanage, host.home, SystemClock().sleep)
    clone = next(one for one in everything.values() if one.name == "clone-of-drive")
    place = ("--storagectl=cd", "--port=0", "--device=0", "--type=dvddrive")
    done = host.run("storageattach", clone.uuid, *place, "--medium=emptydrive", check=False)
    assert "The machine is not mutable or running (state is Saved)" in done.stderr
    assert done.returncode == 1
    assert eject_from_clone(vboxmanage, clone)
    everything = take_inventory(vboxmanage, host.home, SystemClock().sleep)
    assert filled_usb_drives(everything[clone.uuid]) == ()
    assert len(filled_usb_drives(everything[vm.uuid])) == 1
    host.run("export", clone.uuid, f"--output={folder}/x.ova")
    host.run("unregistervm", clone.uuid)
    vm.stop()
    host.run("snapshot", vm.uuid, "delete", "tag")


def test_a_snapshot_of_a_paused_vm_is_no_live_one_and_it_stays_paused(
    host: VirtualBoxHost, vm: VirtualMachine
) -> None:
    vm.start()
    host.run("controlvm", vm.uuid, "pause")
    refused = host.run("snapshot", vm.uuid, "take", "tag", "--live", check=False)
    assert refused.returncode == 1
    assert "Cannot take a live snapshot of a virtual machine unless it is running" in refused.stderr
    moments = [vm.info("VMStateChangeTime")]
    for verb in ("take", "delete"):
        host.run("snapshot", vm.uuid, verb, "tag")
        assert vm.info("VMState") == "paused"
        moments.append(vm.info("VMStateChangeTime"))
    assert moments == sorted(set(moments)), "each is another pause"
    vm.stop()


@pytest.mark.parametrize("kind", ["writethrough", "shareable"])
def test_a_snapshot_does_not_freeze_a_disk_of_this_type_and_its_clone_has_the_same_disk(
    host: VirtualBoxHost, vboxmanage: VBoxManage, kind: str
) -> None:
    vm = host.make_vm(f"of-type-{kind}")
    path = host.vms / f"{kind}.vdi"
    host.run("createmedium", "disk", f"--filename={path}", "--size=8", "--variant=Fixed")
    place = ("--storagectl=SATA", "--port=1", "--device=0", "--type=hdd")
    host.run("storageattach", vm.uuid, *place, f"--medium={path}", f"--mtype={kind}")
    before = machine(host, vboxmanage, vm)
    found = unfrozen_disk(before)
    assert found is not None
    assert (found.location, found.kind.lower()) == (str(path), kind)
    assert before.chains[0][0].kind == "Normal"
    host.run("snapshot", vm.uuid, "take", "tag")
    words = ("--mode=machine", "--options=Link", "--snapshot=tag", f"--name=clone-{kind}")
    host.run("clonevm", vm.uuid, *words, f"--basefolder={host.vms}", "--register")
    everything = take_inventory(vboxmanage, host.home, SystemClock().sleep)
    clone = next(one for one in everything.values() if one.name == f"clone-{kind}")
    leaves = [everything[vm.uuid].chains[number][0].uuid for number in (0, 1)]
    assert leaves[0] != before.chains[0][0].uuid
    assert leaves[1] == before.chains[1][0].uuid == clone.chains[1][0].uuid
    host.run("unregistervm", clone.uuid)
    host.run("snapshot", vm.uuid, "delete", "tag")
