"""What its user does to a VM that runs from its copy, and what becomes of it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.booting import locks, mounts, removing, settling
from coordinator.commands import boot_work
from shared.host.errors import ExitCode, LockedError
from shared.tasks import boot_note
from tests.simulated.conftest import Rig
from tests.simulated.test_unlisted import admin, ask
from tests.support.packages import require
from tests.support.simulated.host import SimulatedVm
from tests.support.waiting import wait_for
from worker.backup import worker as backup


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A VM that has a copy; what each test runs from that has another name."""
    require("fusermount3", "fuse3")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no /dev/fuse")
    rig = Rig(tmp_path_factory.mktemp("meanwhile"))
    rig.host().make_vm("web01", random_mib=3)
    rig.look()
    assert backup.run(rig.site(engine="parallel")).done == ["web01"]
    yield rig
    for note in boot_note.all_of(rig.folder / "state-alpha"):
        admin(rig, "boot", "--discard", note.name, "--yes")


class Booted:
    """A VM that runs from the copy, and is filled."""

    def __init__(self, rig: Rig, name: str) -> None:
        to = str(rig.folder / "booted")
        facts = ask(rig, "boot", "web01", "--as", name, "--to", to, "--network")
        self.rig, self.vm = rig, SimulatedVm(rig.host(), str(facts["uuid"]), name)
        note = boot_note.named(rig.folder / "state-alpha", name)
        assert note is not None
        self.note = note
        wait_for(lambda: note.is_whole, "it to be filled", 120)

    def tell(self, *words: str) -> None:
        self.rig.host().run(words[0], self.vm.uuid, *words[1:])

    def settle(self) -> None:
        """Its server makes an ordinary VM of it, by itself."""
        wait_for(lambda: not self.note.file.exists(), "it to be an ordinary VM", 120)
        held = [hold.uuid for hold in self.rig.record("web01").holds]
        assert self.vm.uuid not in held
        assert not (self.note.folder / "filling").exists()
        (disk,) = self.note.place.iterdir()
        assert disk.name == self.note.disks[0].file

    def snapshots(self) -> list[str]:
        done = self.rig.host().run("snapshot", self.vm.uuid, "list", check=False)
        lines = done.stdout.splitlines()
        return [line.split("Name: ")[1].split(" (")[0] for line in lines if "Name: " in line]

    def goes_on(self, number: int) -> None:
        """It starts, and counts on."""
        self.vm.start()
        self.vm.stop()
        assert self.vm.counter() > number


def test_it_is_saved_started_again_and_has_a_snapshot_of_its_user(rig: Rig) -> None:
    booted = Booted(rig, "snapshots")
    booted.tell("snapshot", "take", "mine")
    with locks.alone(booted.note):
        booted.vm.stop()
        number = booted.vm.counter()
        booted.vm.start()
    booted.tell("controlvm", "savestate")
    waits = "it is saved: start it, and shut it down"
    # its server may be looking at it just then
    wait_for(lambda: settling.settle(rig.site(), booted.note) == waits, "it to be waited for")
    booted.vm.start()
    booted.vm.stop()
    booted.settle()
    assert booted.snapshots() == ["mine"]
    booted.goes_on(number + 1)


def test_what_branches_from_its_snapshot_stays(rig: Rig) -> None:
    """Its user went back to that after taking one, and made a linked clone."""
    booted = Booted(rig, "branches")
    own = booted.note.mark.name
    booted.tell("snapshot", "take", "mine")
    with locks.alone(booted.note):  # else it is an ordinary VM before it can be refused
        booted.vm.stop()
        booted.tell("snapshot", "restore", own)
        linked = ("--options", "link", "--mode", "machine", "--name", "clone", "--register")
        booted.tell("clonevm", "--snapshot", own, *linked)
        with pytest.raises(LockedError, match="stands on a disk"):  # as `boot --discard` does it
            removing.remove(rig.site(), booted.note)
    clone = SimulatedVm(rig.host(), "clone", "clone")
    booted.settle()
    assert sorted(booted.snapshots()) == sorted([own, "mine"])
    told = rig.host().run("snapshot", booted.vm.uuid, "list").stdout
    assert "linked clones stand on it" in told
    number = booted.vm.counter()
    booted.goes_on(number)
    clone.start()
    clone.stop()
    booted.tell("snapshot", "restore", "mine")
    booted.goes_on(number)


def test_one_that_its_user_deletes_is_told_of_until_it_is_discarded(rig: Rig) -> None:
    booted = Booted(rig, "deleted")
    with locks.alone(booted.note):
        booted.vm.stop()
        rig.host().run("unregistervm", booted.vm.uuid, "--delete", check=False)
        assert booted.note.partial(booted.note.disks[0]).exists()
        assert mounts.is_served(booted.note)
    assert "VirtualBox does not list it any more" in admin(rig, "status").stdout
    told = admin(rig, "boot", "--finish", "deleted")
    assert told.exit_code == ExitCode.USAGE, told.output
    assert "--discard deleted" in told.stderr
    assert [hold.uuid for hold in rig.record("web01").holds] == [booted.vm.uuid]
    admin(rig, "boot", "--discard", "deleted", "--yes")
    assert not booted.note.folder.exists()
    assert not booted.note.file.exists()
    assert not rig.record("web01").holds


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a small file system")
def test_a_disk_that_is_full_is_told_and_filled_when_there_is_room(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot_work.BootCommand, "stuck_seconds", 0.0)
    small = rig.folder / "small"
    small.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=32m", "small", small]
    subprocess.run(mounted, check=True)
    try:
        begun = admin(rig, "boot", "web01", "--as", "full", "--to", str(small))
        assert begun.exit_code == 0, begun.output
        assert "has no room for" in begun.stderr
        note = boot_note.named(rig.folder / "state-alpha", "full")
        assert note is not None
        vm = SimulatedVm(rig.host(), note.uuid, "full")
        assert vm.info("VMState") == "running"
        told = admin(rig, "boot", "--finish", "full")
        assert told.exit_code == ExitCode.FAILURE, told.output
        assert "no room" in told.stderr
        _room(small)
        wait_for(lambda: note.is_whole, "it to be filled", 120)
        vm.stop()
        wait_for(lambda: not note.file.exists(), "it to be an ordinary VM", 120)
        vm.start()
        vm.stop()
        rig.host().run("unregistervm", note.uuid, "--delete")
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


def _room(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=2g", place], check=True)
