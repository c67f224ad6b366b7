"""What counts as use of a VM, and what does not.

Each a fact of the real VirtualBox that the choice of VMs to back up stands on.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.virtualbox.fingerprint import differences
from tests.support.looks import fingerprint, look_at
from tests.support.virtualbox import RealHost, RealVm
from tests.support.waiting import wait_for

pytestmark = pytest.mark.virtualbox

RESTARTED = "it was started, stopped or restored"
STATE = "its power state changed"
SNAPSHOT = "its current snapshot changed"
SETTINGS = "its settings changed"
DISKS = "its disks were written"
FIRMWARE = "its firmware variables changed"


def run_for_a_moment(vm: RealVm) -> None:
    vm.start()
    vm.stop()


def shut_down(vm: RealVm) -> None:
    vm.start()
    vm.press_power_button()
    vm.wait_for_state("poweroff")


def save_state(vm: RealVm) -> None:
    vm.start()
    vm.host.run("controlvm", vm.uuid, "savestate")
    vm.wait_for_state("saved")


def kill(vm: RealVm) -> None:
    vm.start()
    vm.kill()


def power_failure(vm: RealVm) -> None:
    vm.start()
    vm.host.lose_power()


def edit_disk(vm: RealVm) -> None:
    with vm.disk.open("r+b") as disk:
        disk.seek(-1, 2)
        disk.write(b"x")


def manage(*words: str) -> Callable[[RealVm], None]:
    def act(vm: RealVm) -> None:
        vm.host.run(*(vm.uuid if word == "VM" else word for word in words))

    return act


def in_order(*acts: Callable[[RealVm], None]) -> Callable[[RealVm], None]:
    def act(vm: RealVm) -> None:
        for each in acts:
            each(vm)

    return act


def nothing(vm: RealVm) -> None:
    pass


take_snapshot = manage("snapshot", "VM", "take", "before")
restore_snapshot = manage("snapshot", "VM", "restore", "before")
delete_snapshot = manage("snapshot", "VM", "delete", "before")

#: What was done before the first look, what between the two looks, and what must be noticed at
#: least.
USE = {
    "start and power off": (nothing, run_for_a_moment, {RESTARTED, DISKS}),
    "start and guest shutdown": (nothing, shut_down, {RESTARTED, DISKS}),
    "save state": (nothing, save_state, {RESTARTED, STATE, DISKS}),
    "discard state": (save_state, manage("discardstate", "VM"), {STATE}),
    "resume and power off": (
        save_state,
        in_order(manage("startvm", "VM", "--type=headless"), RealVm.stop),
        {STATE},
    ),
    "killed VM": (nothing, kill, {RESTARTED, STATE}),
    "start after a kill": (kill, run_for_a_moment, {STATE}),
    "power failure": (nothing, power_failure, {DISKS}),
    "power failure after a snapshot": (take_snapshot, power_failure, {DISKS}),
    "change of memory": (nothing, manage("modifyvm", "VM", "--memory=17"), {SETTINGS}),
    "change of description": (
        nothing,
        manage("modifyvm", "VM", "--description=it's <new>"),
        {SETTINGS},
    ),
    "new name": (nothing, manage("modifyvm", "VM", "--name=other"), {SETTINGS}),
    "extra data": (nothing, manage("setextradata", "VM", "VBoxInternal/x", "1"), {SETTINGS}),
    "detached disk": (
        nothing,
        manage("storageattach", "VM", "--storagectl=SATA", "--port=0", "--medium=none"),
        {SETTINGS, DISKS},
    ),
    "snapshot taken": (nothing, take_snapshot, {SNAPSHOT, DISKS}),
    "snapshot restored": (
        in_order(take_snapshot, run_for_a_moment),
        restore_snapshot,
        {RESTARTED, DISKS},
    ),
    "snapshot deleted": (
        in_order(take_snapshot, run_for_a_moment),
        delete_snapshot,
        {SNAPSHOT, DISKS},
    ),
    "disk edited": (nothing, edit_disk, {DISKS}),
    "base of a snapshot edited": (take_snapshot, edit_disk, {DISKS}),
    "firmware variables": (
        in_order(
            manage("modifyvm", "VM", "--firmware=efi"),
            manage("modifynvram", "VM", "inituefivarstore"),
        ),
        manage("modifynvram", "VM", "enrollorclpk"),
        {FIRMWARE},
    ),
}


@pytest.mark.parametrize(("prepare", "act", "expected"), USE.values(), ids=USE.keys())
def test_use_is_noticed(
    virtualbox_host: RealHost,
    prepare: Callable[[RealVm], None],
    act: Callable[[RealVm], None],
    expected: set[str],
) -> None:
    vm = virtualbox_host.make_vm("web01", mib=2)
    prepare(vm)
    before = fingerprint(virtualbox_host, vm)
    act(vm)
    noticed = {
        text.partition(" (")[0] for text in differences(before, fingerprint(virtualbox_host, vm))
    }
    assert expected <= noticed


def test_power_failure_leaves_no_sign_but_the_disks(virtualbox_host: RealHost) -> None:
    """The row for which a time of the last state change is not enough."""
    vm = virtualbox_host.make_vm("web01", mib=2)
    before = fingerprint(virtualbox_host, vm)
    power_failure(vm)
    assert vm.info("VMState") == "poweroff"
    assert differences(before, fingerprint(virtualbox_host, vm)) == (DISKS,)


def test_disk_of_two_files(virtualbox_host: RealHost) -> None:
    """The guest writes to the second file of a fixed VMDK; the one VirtualBox names is a text."""
    vm = virtualbox_host.make_vm("web01", mib=2)
    fixed = virtualbox_host.vms / "fixed.vmdk"
    virtualbox_host.run("clonemedium", vm.disk, fixed, "--format=VMDK", "--variant=Fixed")
    virtualbox_host.run(
        "storageattach", vm.uuid, "--storagectl=SATA", "--port=0", "--type=hdd", f"--medium={fixed}"
    )
    before = fingerprint(virtualbox_host, vm)
    with (virtualbox_host.vms / "fixed-flat.vmdk").open("r+b") as disk:
        disk.write(b"x")
    assert differences(before, fingerprint(virtualbox_host, vm)) == (DISKS,)


def test_reading_listing_and_exporting_is_no_use(virtualbox_host: RealHost) -> None:
    host = virtualbox_host
    vm = host.make_vm("web01", mib=2)
    take_snapshot(vm)
    before = fingerprint(host, vm)
    host.run("export", vm.uuid, "--ovf20", "--manifest", f"--output={host.vms / 'x.ova'}")
    assert differences(before, fingerprint(host, vm)) == ()
    host.run("list", "--long", "vms")
    host.run("showvminfo", vm.uuid)
    host.run("showmediuminfo", "disk", vm.disk)
    vm.counter()
    assert differences(before, fingerprint(host, vm)) == ()
    host.run(
        "startvm", vm.uuid, check=False
    )  # without a screen the window that it asks for fails: the VM was never on
    wait_for(lambda: not look_at(host, vm).running, "the failed start to end")
    host.lose_power()  # VBoxSVC is gone, and with it the fractions of seconds that it knew
    assert differences(before, fingerprint(host, vm)) == ()


def test_settings_rewritten_without_a_change_are_no_use(virtualbox_host: RealHost) -> None:
    vm = virtualbox_host.make_vm("web01", mib=2)
    before = fingerprint(virtualbox_host, vm)
    manage("modifyvm", "VM", "--memory=17")(vm)
    manage("modifyvm", "VM", "--memory=16")(vm)
    upgraded = (
        vm.settings.read_text()
        .replace("Written by VirtualBox 7", "Written by VirtualBox 9")
        .replace('version="1.', 'version="2.')
    )
    shutil.copyfile(vm.settings, Path(f"{vm.settings}-new"))
    Path(f"{vm.settings}-new").write_text(upgraded)
    shutil.move(f"{vm.settings}-new", vm.settings)
    assert differences(before, fingerprint(virtualbox_host, vm)) == ()


def test_running_vm_is_seen_running_until_it_is_off(virtualbox_host: RealHost) -> None:
    vm = virtualbox_host.make_vm("web01", mib=2)
    assert not look_at(virtualbox_host, vm).running
    vm.start()
    assert look_at(virtualbox_host, vm).running
    virtualbox_host.run("controlvm", vm.uuid, "pause")
    assert look_at(virtualbox_host, vm).running
    vm.stop()
    assert not look_at(virtualbox_host, vm).running
