"""Export of a VM at rest: what is printed, what is written, what is refused."""

import re
import tarfile
from pathlib import Path

import pytest

from tests.contract.exporting import PROGRESS, check_manifest, export, medium_state, members
from tests.support.hosts import VirtualBoxHost, VirtualMachine


def test_a_good_export(host: VirtualBoxHost, vm: VirtualMachine, folder: Path) -> None:
    target = folder / ".20261122T203800Z-17.17.partial.ova"
    done = export(host, vm, target)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "Successfully exported 1 machine(s).\n",
        PROGRESS,
    )
    base = target.name.removesuffix(".ova")
    assert members(target) == [f"{base}.ovf", f"{vm.name}-disk001.vmdk", f"{base}.mf"]
    check_manifest(target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert 1 << 20 < target.stat().st_size < 4 << 20
    assert medium_state(host, vm.disk) == "created"


def test_there_are_no_blocks_of_zeros_at_the_end(
    host: VirtualBoxHost, vm: VirtualMachine, folder: Path
) -> None:
    target = folder / "x.ova"
    export(host, vm, target)
    with tarfile.open(target) as archive:
        last = archive.getmembers()[-1]
    assert target.stat().st_size == last.offset_data + -(-last.size // 512) * 512
    with tarfile.open(target) as archive:
        assert {entry.uname for entry in archive} == {"vboxovf20"}


def test_the_ovf_names_the_machine_its_disk_and_when_it_last_changed(
    host: VirtualBoxHost, vm: VirtualMachine, folder: Path
) -> None:
    target = folder / "x.ova"
    export(host, vm, target, "--vsys", "0", "--vmname", "other name")
    with tarfile.open(target) as archive:
        text = archive.extractfile("x.ovf").read().decode()  # type: ignore[union-attr]
    assert '<VirtualSystem ovf:id="other name">' in text
    assert re.search(r'<File ovf:id="file1" ovf:href="the-ovf.*-disk001\.vmdk"', text)
    assert re.search(r'<Disk ovf:capacity="8388608" ovf:diskId="vmdisk1" ovf:fileRef="file1"', text)
    assert re.search(
        rf'<vbox:Machine [^>]*lastStateChange="{vm.info("VMStateChangeTime")[:19]}Z"', text
    )


def test_without_the_option_there_is_no_manifest(
    host: VirtualBoxHost, vm: VirtualMachine, folder: Path
) -> None:
    host.run("export", vm.uuid, f"--output={folder}/x.ova")
    assert [name.rpartition(".")[2] for name in members(folder / "x.ova")] == ["ovf", "vmdk"]


def test_a_vm_without_a_disk(host: VirtualBoxHost, name: str, folder: Path) -> None:
    created = host.run(
        "createvm", f"--name={name}", "--ostype=Other", "--register", f"--basefolder={host.vms}"
    ).stdout
    uuid = re.findall(r"^UUID: (\S+)$", created, re.MULTILINE)[0]
    host.run("export", uuid, "--ovf20", "--manifest", f"--output={folder}/x.ova")
    assert members(folder / "x.ova") == ["x.ovf", "x.mf"]
    check_manifest(folder / "x.ova")


@pytest.mark.parametrize(
    "odd",
    [
        'quo"te',
        "a/b",
        "ümläut",
        "-dash",
        "x" * 86,
        "dot.",
        "percent%3A",
        "new\nline",
        "back\\slash",
    ],
)
def test_names_inside_the_appliance(host: VirtualBoxHost, odd: str, folder_of_names: Path) -> None:
    """The members of an odd VM's appliance can be read, and are covered by its manifest."""
    vm = host.make_vm(odd)
    target = folder_of_names / f"{vm.uuid}.ova"
    done = export(host, vm, target)
    assert done.returncode == 0, done.stderr
    assert [Path(name).suffix for name in members(target)] == [".ovf", ".vmdk", ".mf"]
    host.run("unregistervm", vm.uuid, "--delete")


def test_a_name_that_is_too_long_for_the_appliance(host: VirtualBoxHost, folder: Path) -> None:
    """Such a VM cannot be exported, whatever it is to be called in the appliance."""
    vm = host.make_vm("y" * 87)
    for options in ([], ["--vsys=0", "--vmname=short"]):
        refused = export(host, vm, folder / "x.ova", *options)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith(
            f"VBoxManage: error: Cannot attach disk '{vm.name}-disk001.vmdk' -- file name too "
            f"long\n"
        )
        assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def folder_of_names(host: VirtualBoxHost) -> Path:
    path = host.folder / "names"
    path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_an_existing_target_is_refused_and_stays(
    host: VirtualBoxHost, kind: str, slow_vm: VirtualMachine
) -> None:
    target = host.folder / f"existing {kind}.ova"
    if kind == "file":
        target.write_text("precious")
    else:
        target.symlink_to("nowhere")
    refused = export(host, slow_vm, target)
    assert (refused.returncode, refused.stdout) == (1, "")
    lines = refused.stderr.splitlines()
    assert lines[:3] == [
        "0%...VBOX_E_IPRT_ERROR",
        "VBoxManage: error: Appliance write failed",
        f"VBoxManage: error: Failed to open '{target}' for writing (VERR_ALREADY_EXISTS)",
    ]
    assert target.is_symlink() or target.read_text() == "precious"


@pytest.mark.parametrize("name", ["x.ova.part", "x.partial", "x"])
def test_other_extensions_are_refused(
    host: VirtualBoxHost, name: str, slow_vm: VirtualMachine
) -> None:
    refused = export(host, slow_vm, host.folder / name)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(
        "VBoxManage: error: Appliance file must have .ovf or .ova extension\n"
    )
    assert not (host.folder / name).exists()


def test_a_missing_directory_is_refused(host: VirtualBoxHost, slow_vm: VirtualMachine) -> None:
    target = host.folder / "no such directory" / "x.ova"
    refused = export(host, slow_vm, target)
    assert refused.returncode == 1
    assert f"Failed to open '{target}' for writing (VERR_FILE_NOT_FOUND)\n" in refused.stderr


def test_a_running_vm_is_refused(host: VirtualBoxHost, vm: VirtualMachine, folder: Path) -> None:
    host.run("startvm", vm.uuid, "--type=headless")
    refused = [export(host, vm, folder / "x.ova")]
    host.run("controlvm", vm.uuid, "pause")
    refused.append(export(host, vm, folder / "x.ova"))
    for each in refused:
        assert (each.returncode, each.stdout) == (1, "")
        assert each.stderr.startswith(
            "0%...VBOX_E_INVALID_OBJECT_STATE\nVBoxManage: error: Appliance write failed\n"
        )
        assert f"Medium '{vm.disk}' is locked for writing by another task\n" in each.stderr
    assert medium_state(host, vm.disk) == "locked write"
    assert list(folder.iterdir()) == []
    vm.stop()


def test_a_running_vm_with_a_snapshot_is_refused_in_other_words(
    host: VirtualBoxHost, vm: VirtualMachine, folder: Path
) -> None:
    host.run("snapshot", vm.uuid, "take", "tag")
    host.run("startvm", vm.uuid, "--type=headless")
    refused = export(host, vm, folder / "x.ova")
    assert refused.returncode == 1
    assert refused.stderr.startswith("0%...VBOX_E_INVALID_OBJECT_STATE\n")
    assert "Current object state prohibits operation" in refused.stderr
    assert medium_state(host, vm.disk) == "locked read", (
        "as while it is exported: the state of the VM must be asked too"
    )
    assert list(folder.iterdir()) == []
    vm.stop()
    assert medium_state(host, vm.disk) == "created"


def test_saved_and_aborted_vms_can_be_exported(
    host: VirtualBoxHost, vm: VirtualMachine, folder: Path
) -> None:
    host.run("startvm", vm.uuid, "--type=headless")
    host.run("controlvm", vm.uuid, "savestate")
    vm.wait_for_state("saved")
    assert export(host, vm, folder / "saved.ova").returncode == 0
    host.run("startvm", vm.uuid, "--type=headless")
    vm.kill()
    assert export(host, vm, folder / "aborted.ova").returncode == 0
    assert vm.info("VMState") == "aborted"
    for target in folder.iterdir():
        check_manifest(target)


def test_a_missing_disk_and_one_that_is_none(
    host: VirtualBoxHost, vm: VirtualMachine, folder: Path
) -> None:
    with vm.disk.open("r+b") as file:
        file.write(bytes(1024))
    damaged = export(host, vm, folder / "x.ova")
    vm.disk.unlink()
    missing = export(host, vm, folder / "x.ova")
    assert damaged.returncode == missing.returncode == 1
    assert "VERR_VD_VDI_INVALID_HEADER" in damaged.stderr
    assert f"VD: error VERR_FILE_NOT_FOUND opening image file '{vm.disk}'" in missing.stderr
    assert list(folder.iterdir()) == []
