"""What an OVA leaves out, what cannot be exported, and whose priority an export has.

On real VirtualBox.
"""

import os
import re
import sys
import tarfile
from pathlib import Path

import pytest

from shared.copies.catalogue import Copy
from shared.export.exporter import VBoxManageExporter
from shared.host.process_identity import ProcessIdentity
from shared.virtualbox.export_checks import LONGEST_NAME_BYTES
from tests.support.fleet import Member
from tests.support.virtualbox import RealHost, RealVm
from tests.support.waiting import wait_for
from tests.system.test_export_virtualbox import look_at, vboxmanage_of
from worker.backup.priority import ExportPriority, find_writer
from worker.backup.room import memory_of

pytestmark = pytest.mark.virtualbox


def latest(member: Member, key: str) -> Copy:
    copy = member.fleet.copies(key)[-1]
    assert copy.sidecar is not None
    return copy


def side(copy: Copy, suffix: str) -> Path:
    return copy.directory / f"{copy.stamp}.{suffix}"


def brought_back(member: Member, vm: RealVm, copy: Copy) -> RealVm:
    """The VM made of a copy, with the original gone."""
    host = member.host
    host.run("unregistervm", vm.uuid, "--delete")
    options = [
        "--vsys",
        "0",
        "--vmname",
        "back",
        "--basefolder",
        host.vms,
        "--options",
        "keepallmacs",
    ]
    host.run("import", side(copy, "ova"), *options)
    if not host.testbed.installed:
        host.run("modifyvm", "back", "--vm-execution-engine=interpreter")
    uuid = next(
        line.partition("{")[2].strip("}")
        for line in host.run("list", "vms").stdout.splitlines()
        if line.startswith('"back"')
    )
    return RealVm(host, uuid, "back")


def test_a_saved_vm_goes_on_from_its_copy_where_it_was(member: Member) -> None:
    vm = member.host.make_vm("saved")
    vm.start()
    wait_for(lambda: vm.beats() >= 2, "the guest to count")
    member.host.run("controlvm", vm.uuid, "savestate")
    vm.wait_for_state("saved")
    member.worker("run")
    copy = latest(member, "saved")
    assert copy.sidecar is not None
    assert set(copy.sidecar.files) == {"vbox", "sav"}
    back = brought_back(member, vm, copy)
    assert back.info("VMState") == "poweroff", "the .ova alone has forgotten that it was saved"
    member.host.run("adoptstate", back.uuid, side(copy, "sav"))
    assert back.info("VMState") == "saved"
    member.host.run("startvm", back.uuid, "--type=headless")
    back.wait_for_state("running")
    log = next(Path(back.info("LogFldr")).glob("VBox.log")).read_text(errors="replace")
    assert "Changing the VM state from 'LOADING' to 'SUSPENDED'" in log


def test_the_memory_of_a_vm_that_was_saved_for_its_export_is_kept(member: Member) -> None:
    vm = member.host.make_vm("server")
    vm.start()
    machine = look_at(member.host, vm)
    assert machine.settings is not None
    assert machine.settings.memory == int(vm.info("memory")) << 20, (
        "that of the screen is not in the file if it is the default, 8 MiB"
    )
    folder = Path(machine.settings_file).parent / machine.settings.snapshot_folder
    assert folder == Path(vm.info("SnapFldr")), "there VirtualBox writes the memory"
    room = memory_of(machine)
    member.configure("backup", running="savestate", saved="keep")
    member.worker("run")
    copy = latest(member, "server")
    assert copy.sidecar is not None
    assert set(copy.sidecar.files) == {"vbox", "sav"}
    print(f"its memory took {copy.sidecar.files['sav'].size} bytes, {room} were asked for")
    assert copy.sidecar.files["sav"].size <= room
    assert b"stateFile=" in side(copy, "vbox").read_bytes()
    assert vm.info("VMState") == "running"
    vm.stop()
    back = brought_back(member, vm, copy)
    member.host.run("adoptstate", back.uuid, side(copy, "sav"))
    member.host.run("startvm", back.uuid, "--type=headless")
    back.wait_for_state("running")


@pytest.mark.parametrize("firmware", ["bios", "efi"])
def test_the_keys_of_a_tpm_are_in_the_copy_or_beside_it(member: Member, firmware: str) -> None:
    host, vm = member.host, member.host.make_vm("sealed")
    host.run("modifyvm", vm.uuid, f"--firmware={firmware}", "--tpm-type=2.0")
    if firmware == "efi":
        host.run("modifynvram", vm.uuid, "inituefivarstore")
    host.run("startvm", vm.uuid, "--type=headless")  # that makes the TPM's keys
    vm.wait_for_state("running")
    vm.stop()
    original = vm.settings.with_suffix(".nvram")
    with tarfile.open(original) as archive:
        assert "TpmEmuTpms/permall" in archive.getnames()
    keys = original.read_bytes()
    member.worker("run")
    copy = latest(member, "sealed")
    with tarfile.open(side(copy, "ova")) as archive:
        inside = [name for name in archive.getnames() if name.endswith(".nvram")]
    assert len(inside) == (firmware == "efi")
    assert side(copy, "nvram").exists() == (firmware == "bios")
    if firmware == "bios":
        back = brought_back(member, vm, copy)
        back.settings.with_suffix(".nvram").write_bytes(side(copy, "nvram").read_bytes())
        host.run("startvm", back.uuid, "--type=headless")
        back.wait_for_state("running")
        back.stop()
        assert _keys(back.settings.with_suffix(".nvram").read_bytes()) == _keys(keys)


def _keys(nvram: bytes) -> bytes:
    import io

    with tarfile.open(fileobj=io.BytesIO(nvram)) as archive:
        file = archive.extractfile("TpmEmuTpms/permall")
        assert file is not None
        return file.read()


def test_snapshots_are_said_to_be_left_out_and_their_settings_are_kept(member: Member) -> None:
    vm = member.host.make_vm("tree")
    member.host.run("snapshot", vm.uuid, "take", "mine")
    member.worker("run")
    copy = latest(member, "tree")
    assert copy.sidecar is not None
    assert copy.sidecar.left_out == ("its snapshots: the copy has the VM's current state only",)
    assert b'name="mine"' in side(copy, "vbox").read_bytes()


@pytest.mark.parametrize("running", ["defer", "savestate"])
def test_a_vm_with_an_encrypted_disk_is_refused_and_left_alone(
    member: Member, running: str
) -> None:
    host, vm = member.host, member.host.make_vm("secret")
    password = host.vms / "password"
    password.write_text("secret")
    words = ["--newpassword", password, "--newpasswordid", "id1", "--cipher", "AES-XTS256-PLAIN64"]
    host.run("encryptmedium", vm.disk, *words)
    member.configure("backup", running=running)
    member.worker("run", expect=3)
    record = member.fleet.record("secret")
    assert (record.status, record.power) == ("BACKUP_NECESSARY", None)
    assert (
        record.last_error
        == f"its disk {vm.disk} is encrypted: VirtualBox would ask for the password at each export"
    )
    assert member.fleet.litter() == []


@pytest.mark.parametrize("engine", ["vboxmanage", "auto"])
def test_a_vm_whose_name_is_too_long_for_an_ova_is_exported_from_a_clone(
    member: Member, engine: str
) -> None:
    name = "n" * 100
    vm = member.host.make_vm(name)
    member.configure("backup", engine=engine)
    member.worker("run")
    assert member.fleet.states() == {name: "CLEAN"}
    suggested = re.findall(
        r'Suggested VM name "(.*)"',
        member.host.run("import", side(latest(member, name), "ova"), "--dry-run").stdout,
    )
    assert [found.startswith(name) for found in suggested] == [True]
    assert (
        "does not have any snapshots"
        in member.host.run("snapshot", vm.uuid, "list", check=False).stdout
    )

    vm.start()
    member.configure("backup", running="savestate", running_hours=0)
    member.worker("run", expect=3)
    assert "its name has 100 bytes" in member.fleet.record(name).last_error
    assert vm.info("VMState") == "running"
    assert member.fleet.litter() == []


@pytest.mark.parametrize("size", [86, 87])
def test_the_longest_name_that_virtualbox_exports(member: Member, size: int) -> None:
    vm = member.host.make_vm("n" * size)
    done = member.host.run(
        "export", vm.uuid, "--ovf20", "--manifest", f"--output={member.host.vms}/x.ova", check=False
    )
    assert (done.returncode == 0) == (size <= LONGEST_NAME_BYTES)


@pytest.mark.skipif(sys.platform != "linux", reason="only there threads have priorities")
def test_the_thread_that_exports_stands_back_and_no_vm_does(virtualbox_host: RealHost) -> None:
    vm, other = (
        virtualbox_host.make_vm("large", mib=500, random_mib=400),
        virtualbox_host.make_vm("other"),
    )
    target = virtualbox_host.vms / ".copy.partial.ova"
    export = VBoxManageExporter(vboxmanage_of(virtualbox_host)).start(
        look_at(virtualbox_host, vm), target
    )
    assert export.identity is not None
    wait_for(
        lambda: find_writer(target, export.identity.started) is not None, "the export's thread"
    )  # type: ignore[union-attr]
    writer = find_writer(target, export.identity.started)
    assert writer is not None
    assert find_writer(target, export.identity.started + 3600) is None, (
        "the thread of an earlier export is not ours"
    )
    ExportPriority(target, 10, export.identity).lower()
    assert os.getpriority(os.PRIO_PROCESS, writer) == 10
    other.start()
    (service,) = virtualbox_host.processes("VBoxSVC")
    assert (service.nice(), other.process().nice()) == (0, 0)
    assert ProcessIdentity.of(service.pid) is not None
    other.stop()
    assert export.cancel(60)
