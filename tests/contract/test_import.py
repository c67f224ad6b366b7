"""Import: that a copy can become a VM again, and what VirtualBox notices of damage."""

import re
import shutil
from pathlib import Path

import pytest

from tests.contract.exporting import export
from tests.support.hosts import VirtualBoxHost, VirtualMachine


@pytest.fixture(scope="module")
def appliance(host: VirtualBoxHost) -> Path:
    """A good copy of a VM that has counted."""
    vm = host.make_vm("exported")
    vm.start()
    vm.stop()
    target = host.folder / "good.ova"
    assert export(host, vm, target).returncode == 0
    return target


def uuid_of(host: VirtualBoxHost, name: str) -> str:
    return re.findall(rf'^"{name}" {{(.*)}}$', host.run("list", "vms").stdout, re.MULTILINE)[0]


def test_the_imported_vm_has_the_disk_of_the_exported_one(
    host: VirtualBoxHost, appliance: Path, folder: Path, name: str
) -> None:
    done = host.run(
        "import",
        appliance,
        "--vsys=0",
        f"--vmname={name}",
        f"--basefolder={folder}",
        "--options=keepallmacs,importtovdi",
    )
    assert done.stdout.endswith("Successfully imported the appliance.\n")
    assert done.stderr.startswith("0%...10%...")
    uuid = uuid_of(host, name)
    assert uuid != uuid_of(host, "exported")
    info = host.run("showvminfo", uuid, "--machinereadable").stdout
    disk = re.findall(r'^"SATA-0-0"="(.*)"$', info, re.MULTILINE)[0]
    assert disk.endswith(".vdi")
    host.run(
        "mediumio",
        f"--disk={disk}",
        "cat",
        f"--offset={63 * 512}",
        "--size=512",
        f"--output={folder}/sector",
    )
    assert (folder / "sector").read_bytes()[:2] == b"TC"
    host.run("unregistervm", uuid, "--delete")


def test_its_disk_stays_a_vmdk_unless_told_otherwise(
    host: VirtualBoxHost, appliance: Path, folder: Path, name: str
) -> None:
    host.run("import", appliance, "--vsys=0", f"--vmname={name}", f"--basefolder={folder}")
    info = host.run("showvminfo", uuid_of(host, name), "--machinereadable").stdout
    assert re.findall(r'^"SATA-0-0"="(.*)"$', info, re.MULTILINE) == [
        f"{folder}/{name}/exported-disk001.vmdk"
    ]


def test_the_imported_vm_keeps_the_time_of_the_exported_one(
    host: VirtualBoxHost, appliance: Path, folder: Path, name: str
) -> None:
    host.run("import", appliance, "--vsys=0", f"--vmname={name}", f"--basefolder={folder}")
    times = [
        host.run("showvminfo", uuid_of(host, vm), "--machinereadable").stdout
        for vm in (name, "exported")
    ]
    first, second = (
        re.findall(r'^VMStateChangeTime="(.*)\.', text, re.MULTILINE) for text in times
    )
    assert first == second


def test_an_existing_name_is_refused(
    host: VirtualBoxHost, appliance: Path, vm: VirtualMachine
) -> None:
    before = host.run("list", "vms").stdout
    refused = host.run(
        "import",
        appliance,
        "--vsys=0",
        f"--vmname={vm.name}",
        f"--basefolder={host.vms}",
        check=False,
    )
    assert refused.returncode == 1
    assert (
        f"VBoxManage: error: Machine settings file '{vm.settings}' already exists\n"
        in refused.stderr
    )
    assert host.run("list", "vms").stdout == before


@pytest.mark.parametrize("damage", ["disk", "manifest", "half"])
def test_damage_that_it_notices(host: VirtualBoxHost, appliance: Path, damage: str) -> None:
    """Only a real import does: `--dry-run` reads the .ovf alone."""
    broken = host.folder / f"{damage}.ova"
    shutil.copy(appliance, broken)
    data = bytearray(broken.read_bytes())
    if damage == "half":
        del data[len(data) // 2 :]
    else:
        place = len(data) // 2 if damage == "disk" else data.rstrip(b"\0").rfind(b"= ") + 2
        data[place] = data[place] ^ 1
    broken.write_bytes(data)
    assert host.run("import", broken, "--dry-run").returncode == 0
    before = host.run("list", "vms").stdout
    refused = host.run(
        "import",
        broken,
        "--vsys=0",
        f"--vmname=broken-{damage}",
        f"--basefolder={host.folder}/broken",
        check=False,
    )
    assert refused.returncode == 1
    assert "VBoxManage: error: Appliance import failed\n" in refused.stderr
    assert host.run("list", "vms").stdout == before


def test_a_manifest_that_is_missing_goes_unnoticed(
    host: VirtualBoxHost, appliance: Path, folder: Path, name: str
) -> None:
    """The reason why copies are checked by us.

    An import believes a file whose manifest was cut off.
    """
    data = appliance.read_bytes()
    cut = folder / "cut.ova"
    cut.write_bytes(data[: data.rfind(b"good.mf")])
    host.run("import", cut, "--vsys=0", f"--vmname={name}", f"--basefolder={folder}")
    assert f'"{name}"' in host.run("list", "vms").stdout
