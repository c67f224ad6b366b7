"""A VM that was unpacked directly is the one that the real VirtualBox would have imported."""

import subprocess
from pathlib import Path

import pytest

from tests.support.drawing import drawn
from tests.support.fleet import Fleet
from tests.support.packages import require
from tests.support.virtualbox import RealVm
from tests.support.vm_settings import disks_of, kinds_of_disks, settings_of
from tests.system.test_restore_virtualbox import names, reaches_out, tree
from tests.system.test_restored_settings_virtualbox import rich_vm

pytestmark = pytest.mark.virtualbox


@pytest.mark.parametrize("access", drawn([False, True]))
def test_the_vm_is_the_one_that_virtualbox_makes_of_the_ovf(fleet: Fleet, *, access: bool) -> None:
    first, second = fleet.members.values()
    vm = rich_vm(first.host)
    mine = first.host.folder / "mine"
    mine.mkdir()
    reaches_out(vm, mine)
    starts_with_its_host(vm)
    first.host.run("modifyvm", vm.uuid, "--firmware=efi64")
    first.host.run("modifynvram", vm.uuid, "inituefivarstore")
    first.host.run("modifynvram", vm.uuid, "enrollorclpk")
    first.worker("run")
    wanted = ["--with-host-access"] if access else []
    place = second.host.vms / "here"
    direct = second.admin("restore", "rich", "--to", str(place), "--json", *wanted).json
    assert direct["imported_because"] == ""
    made = RealVm(second.host, direct["uuid"], "rich")
    found, kinds, disks = settings_of(made.settings), kinds_of_disks(made.settings), disks_of(made)
    variables = made.settings.with_suffix(".nvram").read_bytes()
    second.host.run("unregistervm", made.uuid, "--delete")
    place = second.host.vms / "there"

    (copy,) = fleet.copies("rich")
    forced = copy.directory / f"{copy.stamp}.vbox"
    text = forced.read_text(encoding="utf-8")
    strange = text.replace("<Groups>", "<Strange/><Groups>")
    assert strange != text
    give(copy.directory, copy.stamp, strange)
    imported = second.admin("restore", "rich", "--to", str(place), "--json", *wanted).json
    assert "does not know: Strange" in imported["imported_because"]
    other = RealVm(second.host, imported["uuid"], "rich")
    expected = settings_of(other.settings)
    if access:
        found, expected = unsaid_loopback(found), unsaid_loopback(expected)
    assert sorted(found - expected) == [], sorted(expected - found)
    assert sorted(expected - found) == []
    assert kinds == kinds_of_disks(other.settings)
    assert disks == disks_of(other) == disks_of(vm)
    assert variables == vm.settings.with_suffix(".nvram").read_bytes()
    assert sorted(direct["host_access"]) == sorted(imported["host_access"])
    assert direct["lost"] == imported["lost"]
    second.host.run("modifyvm", other.uuid, "--memory=20")


def starts_with_its_host(vm: RealVm) -> None:
    """As servers do, without a window and with a priority of its own."""
    folder = vm.host.folder / "autostart"
    folder.mkdir()
    vm.host.run("setproperty", "autostartdbpath", folder)
    words = ("--autostart-enabled=on", "--autostop-type=acpishutdown", "--autostart-delay=5")
    vm.host.run("modifyvm", vm.uuid, *words)
    vm.host.run("modifyvm", vm.uuid, "--default-frontend=headless", "--vm-process-priority=low")


def unsaid_loopback(settings: set[str]) -> set[str]:
    """Settings without a word on the host's loopback.

    Of a NAT that says nothing VirtualBox writes `localhost-reachable="true"` when it has ended in
    between (docs/virtualbox.md). tests/unit/tasks/test_made_settings.py has what the product says.
    """
    return {line.replace("[('localhost-reachable', 'true')]", "[]") for line in settings}


def give(directory: Path, stamp: str, text: str) -> None:
    """Other kept settings for a copy, which its sidecar knows."""
    import hashlib
    import json

    path, sidecar = directory / f"{stamp}.vbox", directory / f"{stamp}.json"
    for file in (path, sidecar):
        file.chmod(0o640)
    path.write_text(text, encoding="utf-8")
    document = json.loads(sidecar.read_bytes())
    data = path.read_bytes()
    document["files"]["vbox"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    sidecar.write_text(json.dumps(document), encoding="utf-8")


def test_settings_that_virtualbox_refuses_are_imported_and_one_disk_comes_back(
    fleet: Fleet,
) -> None:
    first, second = fleet.members.values()
    vm = first.host.make_vm("web01")
    first.worker("run")
    (copy,) = fleet.copies("web01")
    kept = (copy.directory / f"{copy.stamp}.vbox").read_text(encoding="utf-8")
    give(copy.directory, copy.stamp, kept.replace('PortCount="', 'PortCount="9999'))
    place = second.host.vms / "here"
    ran = second.admin("restore", "web01", "--to", str(place), "--new-macs", "--json")
    assert "VirtualBox refuses its settings" in ran.json["imported_because"]
    assert names(second) == ["web01"]
    assert not [path for path in tree(place) if "vmbackup" in path], ran.stderr

    require("qemu-img", "qemu-utils")
    for name in ("disk.vdi", "disk.img"):
        target = place / name
        before = second.admin(
            "restore", "web01", "--disk", "1", "--to", str(target), "--dry-run", "--json"
        ).json
        assert not target.exists()
        one = second.admin("restore", "web01", "--disk", "1", "--to", str(target), "--json").json
        assert one["size"] == before["size"]
        image = vm.host.vms / f"{vm.uuid}.vdi"
        compared = subprocess.run(
            ["qemu-img", "compare", image, target], capture_output=True, text=True, check=False
        )
        assert "identical" in compared.stdout, compared.stderr
    again = second.admin("restore", "web01", "--disk", "1", "--to", str(target), expect=2)
    assert "is there already" in again.stderr
    beyond = str(place / "x.vdi")
    assert (
        "no disk 2"
        in second.admin("restore", "web01", "--disk", "2", "--to", beyond, expect=2).stderr
    )
    assert not list(place.rglob("*partial*"))
