"""The inventory of real VirtualBox hosts, with names that lists cannot show and VMs that are
broken.
"""

import os
from pathlib import Path

import pytest

from shared.host.errors import VBoxManageError
from shared.host.processes import SubprocessRunner
from shared.virtualbox.inventory import take_inventory
from shared.virtualbox.vboxmanage import VBoxManage
from tests.support.looks import look, vboxmanage_of
from tests.support.virtualbox import RealHost

pytestmark = pytest.mark.virtualbox

NAMES = [
    "plain",
    "Büro & Co",
    'quo"te',
    "back\\slash",
    "-dash",
    "..",
    "colon: slash/",
    "tab\there",
    "two\nlines",
    "<inaccessible>",
    '"<inaccessible>',
    'last line is\n"<inaccessible>',
    'forged" {11111111-1111-1111-1111-111111111111}\n"line',
    "22222222-2222-2222-2222-222222222222",
]


def make_empty(host: RealHost, name: str) -> str:
    done = host.run(
        "createvm", f"--name={name}", "--ostype=Other", f"--basefolder={host.vms}", "--register"
    )
    return done.stdout.rpartition("UUID: ")[2][:36]


def test_names_of_all_kinds(virtualbox_host: RealHost) -> None:
    made = {make_empty(virtualbox_host, name): name for name in NAMES}
    found = look(virtualbox_host)
    assert {uuid: machine.name for uuid, machine in found.items()} == made
    assert not [machine for machine in found.values() if not machine.accessible or machine.running]
    vboxmanage = vboxmanage_of(virtualbox_host)
    assert {listed.uuid for listed in vboxmanage.list_vms()} >= made.keys()
    for uuid, name in made.items():
        info = vboxmanage.info(uuid)
        assert (info.uuid, info.name, info.state, info.stopped) == (uuid, name, "poweroff", True)


def test_snapshot_names_cannot_forge_a_state(virtualbox_host: RealHost) -> None:
    uuid = make_empty(virtualbox_host, "web01")
    virtualbox_host.run(
        "snapshot",
        uuid,
        "take",
        'x"\nVMState="running"\nname="other"\ny',
        '--description=a\nVMState="saved"',
    )
    info = vboxmanage_of(virtualbox_host).info(uuid)
    assert (info.state, info.name) == ("poweroff", "web01")


def test_locale_of_cron_does_not_hide_vms(
    virtualbox_host: RealHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [make_empty(virtualbox_host, name) for name in ("first", "Büro", "last")]
    for name in ("LC_ALL", "LANG"):
        monkeypatch.setenv(name, "C")
    bare = SubprocessRunner().run(
        [str(virtualbox_host.vboxmanage), "list", "vms"], timeout_seconds=60
    )
    assert made[-1] not in bare.stdout, (
        "this test needs a VirtualBox that stops at a name that is not ASCII"
    )
    assert set(look(virtualbox_host)) == set(made)


def test_broken_vms_harm_no_others(virtualbox_host: RealHost) -> None:
    whole, gone, damaged = (
        virtualbox_host.make_vm(name, mib=2) for name in ("whole", "gone", "damaged")
    )
    paths = [vm.settings for vm in (gone, damaged)]
    virtualbox_host.lose_power()  # VBoxSVC would still know them
    paths[0].unlink()
    paths[1].write_text("<?xml version='1.0'?><VirtualBox><Machine")
    found = look(virtualbox_host)
    assert found[whole.uuid].accessible
    assert found[whole.uuid].images
    for vm, reason in ((gone, "is not there"), (damaged, "is damaged")):
        assert not found[vm.uuid].accessible
        assert reason in found[vm.uuid].reason
        with pytest.raises(VBoxManageError) as caught:
            vboxmanage_of(virtualbox_host).info(vm.uuid)
        assert "list --long vms" in caught.value.hint


def test_linked_clone_stands_on_the_disk_of_another_vm(virtualbox_host: RealHost) -> None:
    base = virtualbox_host.make_vm("base", mib=2)
    virtualbox_host.run("snapshot", base.uuid, "take", "here")
    virtualbox_host.run(
        "clonevm",
        base.uuid,
        "--snapshot=here",
        "--options=Link",
        "--name=clone",
        f"--basefolder={virtualbox_host.vms}",
        "--register",
    )
    clone = next(machine for machine in look(virtualbox_host).values() if machine.name == "clone")
    assert clone.accessible
    assert [image.location for image in clone.images][-1] == str(base.disk)
    assert all(os.path.exists(image.location) for image in clone.images)


def test_host_without_vms(virtualbox_host: RealHost) -> None:
    assert look(virtualbox_host) == {}


def test_another_users_registry_is_refused(virtualbox_host: RealHost, tmp_path: Path) -> None:
    make_empty(virtualbox_host, "web01")
    with pytest.raises(VBoxManageError) as caught:
        take_inventory(vboxmanage_of(virtualbox_host), tmp_path, lambda _seconds: None)
    assert "VBOX_USER_HOME" in caught.value.hint


def test_missing_program() -> None:
    with pytest.raises(VBoxManageError) as caught:
        VBoxManage("/nowhere/VBoxManage", SubprocessRunner(), 5).version()
    assert "VMBACKUP_VBOXMANAGE" in caught.value.hint
