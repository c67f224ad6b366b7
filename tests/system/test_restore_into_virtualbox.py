"""A VM is taken back to a copy in place, on real VirtualBox."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from shared.ova.vdi import VdiImage
from shared.ova.vdi_writing import VdiFile
from tests.support.fleet import Fleet, Member
from tests.support.packages import require
from tests.support.virtualbox import RealHost, RealVm, Testbed
from tests.support.waiting import wait_for
from tests.system.test_frozen_virtualbox import host_on, raw

pytestmark = pytest.mark.virtualbox


@pytest.fixture
def fleet(make_virtualbox_host: Callable[[], RealHost], tmp_path: Path) -> Fleet:
    """A real host and one NAS directory."""
    fleet = Fleet(tmp_path)
    fleet.add(make_virtualbox_host())
    return fleet


def only(fleet: Fleet) -> Member:
    (member,) = fleet.members.values()
    return member


def counted(vm: RealVm, beats: int = 2) -> int:
    """Lets the guest count, and stops it."""
    vm.start()
    wait_for(lambda: vm.beats() >= beats, "the guest to count", 90)
    vm.stop()
    return vm.counter()


def same(disk: Path, expected: Path) -> bool:
    """Whether qemu-img says that an image is that raw disk."""
    command = ["qemu-img", "compare", "-f", "vdi", "-F", "raw", disk, expected]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


def beside(vm: RealVm) -> list[str]:
    """What lies beside the disks of a VM and is not VirtualBox's."""
    return sorted(path.name for path in vm.host.vms.glob("*.vmbackup-*"))


def test_the_guest_goes_back_to_the_number_of_the_copy_and_counts_on(fleet: Fleet) -> None:
    require("qemu-img", "qemu-utils")
    member = only(fleet)
    vm = member.host.make_vm("web01")
    old = counted(vm)
    expected = raw(vm.disk, fleet.folder)
    member.worker("run")
    (copy,) = fleet.copies("web01")
    newest = counted(vm)
    assert newest > old
    settings = vm.settings.read_bytes()

    refused = member.admin("restore", "--into", "web01", expect=15)
    assert "has changed since its newest good copy" in refused.stderr
    assert beside(vm) == []
    wanted = ("restore", "--into", "web01", "--discard-present-state")
    foreseen = member.admin(*wanted, "--dry-run", "--json").json
    assert (foreseen["stamp"], foreseen["disks"]) == (copy.stamp, [str(vm.disk)])
    done = member.admin(*wanted, "--json").json
    assert (done["stamp"], done["uuid"], done["recorded"]) == (copy.stamp, vm.uuid, True)
    assert same(vm.disk, expected)
    assert vm.settings.read_bytes() == settings
    assert fleet.states() == {"web01": "BACKUP_NECESSARY"}
    assert [os.path.basename(path) for path in done["old_disks"]] == beside(vm)
    assert vm.counter() == old

    member.admin("restore", "--into", "web01", "--undo")
    assert (vm.counter(), beside(vm), vm.settings.read_bytes()) == (newest, [], settings)
    assert newest + 2 <= counted(vm), "it counts on from what it was before"
    done = member.admin(*wanted, "--json").json
    assert vm.counter() == old
    assert old + 2 <= counted(vm), "it counts on from there"
    used = member.admin("restore", "--into", "web01", "--undo", expect=15)
    assert "was used since it was taken back" in used.stderr

    again = member.admin(*wanted, expect=15)
    assert "--finish" in again.stderr
    removed = member.admin("restore", "--into", "web01", "--finish", "--json").json
    assert removed["removed"] == done["old_disks"]
    assert beside(vm) == []
    member.worker("run")
    assert fleet.states() == {"web01": "CLEAN"}
    assert len(fleet.copies("web01")) == 2
    assert old + 4 <= counted(vm)


#: Runs vmbackup-admin, which stops itself before the call NUMBER of a function: MODULE NAME NUMBER.
STOPPING = """
import importlib, os, signal, sys
module, name, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner = importlib.import_module(module)
real, calls = getattr(owner, name), 0

def stopping(*arguments, **named):
    global calls
    calls += 1
    if calls == number + 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return real(*arguments, **named)

setattr(owner, name, stopping)
sys.argv = ["vmbackup-admin", *sys.argv[4:]]
from coordinator.admin import main
main()
"""
COMMAND = ("restore", "--into", "web01", "--discard-present-state")


@contextlib.contextmanager
def stopped(
    member: Member, module: str, name: str, number: int
) -> "Iterator[subprocess.Popen[str]]":
    """The command, which stands still before it calls that. It does not outlive the block."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", STOPPING, module, name, str(number), *COMMAND],
        env=member.environment,
        cwd=member.fleet.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status), process.stdout and process.stdout.read()
            yield process
        finally:
            process.kill()


def refused(vm: RealVm) -> str:
    """What VirtualBox says when the VM is started, which it refuses."""
    done = vm.host.run("startvm", vm.uuid, "--type=headless", check=False)
    assert done.returncode != 0, done.stdout
    return done.stderr


def test_nobody_starts_it_meanwhile_and_who_can_keeps_all_that_he_does(
    make_virtualbox_host: Callable[[], RealHost], tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, lease_seconds=900)  # who is stopped has no heartbeat
    member = fleet.add(make_virtualbox_host())
    vm = member.host.make_vm("web01")
    member.worker("run")
    present = counted(vm)
    inode = vm.disk.stat().st_ino

    # all disks are made, and VirtualBox's locks are held
    with stopped(member, "shared.tasks.disk_swap", "move_file", 0) as process:
        assert len(beside(vm)) == 1
        assert "lock" in refused(vm).lower()
        # then VBoxSVC dies with all its locks, and the VM is started before the first rename
        for service in member.host.processes("VBoxSVC"):
            service.kill()
            service.wait(30)
        vm.start()
        process.send_signal(signal.SIGCONT)
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 1, output
        assert "the read lock of the disk" in output
        assert (vm.disk.stat().st_ino, beside(vm)) == (inode, []), output
    wait_for(lambda: vm.beats() >= 2, "the guest to go on counting", 90)
    vm.stop()
    assert vm.counter() >= present + 2, "what it wrote meanwhile is there"


@pytest.fixture
def reflinking(virtualbox_testbed: Testbed, tmp_path: Path) -> Iterator[Fleet]:
    """A real host whose VMs are on an XFS, and one NAS directory."""
    with host_on("xfs", virtualbox_testbed, tmp_path) as host:
        fleet = Fleet(tmp_path, lease_seconds=900)
        fleet.add(host)
        yield fleet


def second_disk(vm: RealVm) -> Path:
    """Attaches another disk, of 3 MiB that nobody can compress."""
    path, identifier = vm.host.vms / "second.vdi", uuid4()
    with VdiFile(path, 40 << 20, identifier) as file:
        for number in (7, 3, 30):
            file.write(file.reserve(number << 20), [os.urandom(1 << 20)])
        file.finish()
    vm.host.run(
        *("storageattach", vm.uuid, "--storagectl=SATA", "--port=1", "--type=hdd"),
        f"--medium={path}",
    )
    return path


def change(disk: Path) -> None:
    """Writes other bytes into the first block that an image has."""
    with VdiImage.open(disk) as image:
        place = image.place(min(image.entries(0, image.header.blocks)))
    with disk.open("r+b") as file:
        file.seek(place + (1 << 19))
        file.write(os.urandom(4096))


def test_killed_at_each_step_it_has_all_old_or_all_new_disks_or_is_not_started(
    reflinking: Fleet,
) -> None:
    require("qemu-img", "qemu-utils")
    fleet, member = reflinking, only(reflinking)
    vm = member.host.make_vm("web01", mib=24, random_mib=20)
    disks = [vm.disk, second_disk(vm)]
    expected = []
    for number, disk in enumerate(disks):
        (folder := fleet.folder / f"oracle{number}").mkdir()
        expected.append(raw(disk, folder))
    member.worker("run")

    for step in (1, 2):  # the others: tests/simulated/test_restore_into.py
        for disk in disks:
            change(disk)
        changed = [disk.read_bytes() for disk in disks]
        with stopped(member, "shared.tasks.disk_swap", "move_file", step) as process:
            process.kill()
            process.communicate(timeout=60)
        assert not vm.disk.exists()
        wait_for(lambda: "VERR_FILE_NOT_FOUND" in refused(vm), "its locks to be gone", 60)
        if step == 2:
            member.worker("database")
            assert [disk.read_bytes() for disk in disks] == changed
            assert beside(vm) == []
        done = member.admin(*COMMAND, "--json").json
        assert 0 < done["written"] <= 1 << 20, "clones were written over, and no more than differs"
        assert all(same(disk, of) for disk, of in zip(disks, expected, strict=True)), step
        member.admin("restore", "--into", "web01", "--finish")
        assert beside(vm) == []
    assert counted(vm) >= 2
    member.worker("run")
    assert fleet.states() == {"web01": "CLEAN"}
