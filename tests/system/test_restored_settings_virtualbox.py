"""What comes back of a VM is what went in: on real VirtualBox, compared by an oracle of its own."""

from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.virtualbox import RealHost, RealVm
from tests.support.vm_settings import disks_of, kinds_of_disks, resets_of, settings_of
from tests.system.test_restore_virtualbox import reaches_out

pytestmark = pytest.mark.virtualbox

DESCRIPTION = 'Für alle: <b>&amp;</b> "x"\nzweite Zeile\n' + "ä" * 5000
#: Words of the settings that reach into the host, in the lines of the oracle.
REACHING = (
    *("SharedFolder", "'hostMode'", "tracefile", "Forwarding", "GenericInterface", "/Recording"),
    *("RemoteDisplay", "Teleporter", "GuestDebug", "Debugging", "VBoxInternal"),
)


def add_disk(vm: RealVm, name: str, controller: str, port: int, kind: str = "") -> None:
    """A disk with bytes of its own, attached as one of this kind."""
    path, raw = vm.host.vms / f"{name}.vdi", vm.host.vms / f"{name}.raw"
    raw.write_bytes(name.encode() * (1 << 16) + bytes(4 << 20))
    vm.host.run("convertfromraw", raw, path)
    raw.unlink()
    words = ["storageattach", vm.uuid, f"--storagectl={controller}", f"--port={port}"]
    words += ["--device=0", "--type=hdd", f"--medium={path}"]
    vm.host.run(*words, *([f"--mtype={kind}"] if kind else []))


def rich_vm(host: RealHost) -> RealVm:
    """A VM with what an import is known to leave out, and what a description may hold."""
    vm = host.make_vm("rich")
    run, uuid = host.run, vm.uuid
    run("modifyvm", uuid, "--groups=/office/a,/web", "--description", DESCRIPTION)
    run("modifyvm", uuid, "--nic3=bridged", "--bridge-adapter3=eth7", "--nic4=intnet")
    run("modifyvm", uuid, "--intnet4=lan", "--nic-type4=virtio", "--clipboard-mode=bidirectional")
    run("setextradata", uuid, "my/key", 'two\nlines & "quotes" <x>')
    run("setextradata", uuid, "GUI/Fullscreen", "true")
    run("storagectl", uuid, "--name=IDE: 1", "--add=ide", "--controller=ICH6")
    run("storagectl", uuid, "--name=scsi", "--add=scsi", "--controller=LSILogic")
    run("storagectl", uuid, "--name=sas", "--add=sas", "--controller=LSILogicSAS")
    add_disk(vm, "immutable", "SATA", 1, "immutable")
    add_disk(vm, "writethrough", "SATA", 2, "writethrough")
    add_disk(vm, "unreset", "SATA", 3, "immutable")
    run("modifymedium", "disk", vm.info("SATA-ImageUUID-3-0"), "--autoreset=off")
    add_disk(vm, "scsi", "scsi", 5)
    add_disk(vm, "sas", "sas", 3)
    iso = host.vms / "x.iso"
    iso.write_bytes((bytes(32768) + b"\1CD001\1").ljust(65536, b"\0"))
    run(
        *("storageattach", uuid, "--storagectl=IDE: 1", "--port=1", "--device=0"),
        *("--type=dvddrive", "--medium", iso),
    )
    return vm


def test_a_vm_comes_back_with_all_its_settings_and_disks(fleet: Fleet) -> None:
    first, second = fleet.members.values()
    vm = rich_vm(first.host)
    mine = first.host.folder / "mine"
    mine.mkdir()
    reaches_out(vm, mine)
    first.worker("run")
    place = str(second.host.vms / "here")
    foreseen = second.admin("restore", "rich", "--to", place, "--dry-run", "--json").json
    ran = second.admin("restore", "rich", "--to", place, "--json").json
    restored = RealVm(second.host, ran["uuid"], "rich")
    before, after = settings_of(vm.settings), settings_of(restored.settings)

    assert (ran["lost"], ran["host_access_put_back"]) == ([], False)
    immutable = first.host.vms / "immutable.vdi"
    immutable = first.host.vms / "immutable.vdi"
    image, start = ran["left_out"]
    assert image == f"the image in its CD drive at IDE: 1 1: {first.host.vms / 'x.iso'}"
    assert start.startswith(f"what its disk {immutable} goes back to when the VM starts")
    assert set(ran["host_access"]) == set(foreseen["host_access"])
    told = " ".join(ran["host_access"])
    for word in ("shared folder", "serial line 2", "serial line 4", "packet capture", "teleporter"):
        assert word in told
    reaching = {line for line in before if any(word in line for word in REACHING)}
    missing = before - after
    beyond = [line for line in missing if not any(word in line for word in REACHING)]
    assert beyond == [], sorted(after - before)
    assert str(mine) not in restored.settings.read_text(encoding="utf-8")
    assert reaching
    assert kinds_of_disks(restored.settings) == kinds_of_disks(vm.settings)
    assert resets_of(restored.settings) == resets_of(vm.settings) == {"SATA-1-0"}
    disks = disks_of(vm)
    assert len(set(disks.values())) == len(disks) == 6
    assert disks_of(restored) == disks

    said = second.admin("restore", "rich", "--to", place, "--as", "all", "--with-host-access")
    assert "shared folder 'all'" in said.stdout
    whole = next(path for path in Path(place).glob("all/*.vbox") if "prev" not in path.name)
    kept = settings_of(whole)
    assert sorted(before - kept) == [], sorted(kept - before)
    second.host.run("modifyvm", ran["uuid"], "--memory=20")
