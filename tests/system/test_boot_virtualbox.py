"""A VM that runs from its copy counts on from the number of the backup, and becomes ordinary."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.booting import locks
from shared.host.configuration import UNFINISHED
from shared.host.process_identity import ProcessIdentity, wait_until_gone
from shared.serving import places
from shared.tasks import boot_note
from shared.tasks.boot_mounts import SUBTYPE
from tests.support.fleet import Fleet, Member
from tests.support.packages import require
from tests.support.served import shared_place
from tests.support.virtualbox import RealHost, RealVm
from tests.support.vm_settings import disks_of
from tests.support.waiting import wait_for
from tests.system.test_restored_settings_virtualbox import add_disk

pytestmark = pytest.mark.virtualbox


@pytest.fixture
def fleet(make_virtualbox_host: Callable[[], RealHost], tmp_path: Path) -> Fleet:
    """Two real hosts and one NAS directory."""
    require("fusermount3", "fuse3")
    fleet = Fleet(tmp_path)
    for _ in range(2):
        fleet.add(make_virtualbox_host())
    return fleet


@pytest.fixture
def place(fleet: Fleet) -> Iterator[Path]:
    _, second = fleet.members.values()
    assert isinstance(second.host, RealHost)
    with shared_place(second.host) as place:
        yield place


class Booted:
    """A VM that runs from a copy."""

    def __init__(self, member: Member, facts: Any) -> None:
        assert isinstance(member.host, RealHost)
        self.member, self.facts, self.host = member, facts, member.host
        self.vm = RealVm(member.host, facts["uuid"], facts["name"])
        self.folder = Path(facts["folder"])

    @property
    def note(self) -> boot_note.BootNote:
        state = self.member.fleet.folder / f"state-{self.member.name}"
        note = boot_note.named(state, self.vm.name)
        assert note is not None
        return note

    def let_it_count(self, seconds: float = 120) -> None:
        """Waits until the guest, which is on, has written two numbers to its disk."""
        self.vm.serial.unlink(missing_ok=True)
        line = ("changeuartmode1", "file", str(self.vm.serial))
        self.host.run("controlvm", self.vm.uuid, *line)
        wait_for(lambda: self.vm.beats() >= 2, "the guest to count", seconds)

    def start(self) -> None:
        self.host.run("startvm", self.vm.uuid, "--type=headless")

    def refused(self) -> str:
        """What VirtualBox says when its user starts it, which must fail."""
        done = self.host.run("startvm", self.vm.uuid, "--type=headless", check=False)
        assert done.returncode != 0
        return done.stderr

    def fill(self) -> None:
        wait_for(lambda: self.note.is_whole, "all to be filled", 120)

    def kill_server(self) -> None:
        """Nothing serves its disks any more when this returns."""
        pid = int(str(self.note.progress.read()["pid"]))
        identity = ProcessIdentity.of(pid)
        assert identity is not None
        assert os.getsid(pid) != os.getsid(0)
        os.kill(pid, signal.SIGKILL)
        assert wait_until_gone(identity, timeout_seconds=10, poll_seconds=0.05)

    def stop_without_server(self) -> None:
        """Switches it off and kills its server, which cannot settle it between the two."""
        note = self.note
        with locks.alone(note):
            self.vm.stop()
            self.kill_server()


def begun(member: Member, name: str, place: Path, *more: str) -> Booted:
    facts = member.admin("boot", name, "--to", str(place), "--json", *more).json
    return Booted(member, facts)


def counted(
    fleet: Fleet, *disks: str, efi: bool = False, snapshots: tuple[str, ...] = ()
) -> RealVm:
    """Makes a VM on the first host whose guest has counted, and its copy.

    It has more disks of these names, and its first one `snapshots`, before its guest has counted.
    `efi`: it has another firmware since, with keys of its own.
    """
    first, _ = fleet.members.values()
    assert isinstance(first.host, RealHost)
    vm = first.host.make_vm("web01", mib=24, random_mib=6, walk_mib=6)
    for name in snapshots:
        first.host.run("snapshot", vm.uuid, "take", name)
    vm.start()
    wait_for(lambda: vm.beats() >= 2, "two beats", 90)
    vm.stop()
    for port, name in enumerate(disks, 1):
        add_disk(vm, name, "SATA", port)
    if efi:
        first.host.run("modifyvm", vm.uuid, "--firmware=efi64", "--nic1=null", "--nic3=null")
        first.host.run("modifynvram", vm.uuid, "inituefivarstore")
        first.host.run("modifynvram", vm.uuid, "enrollorclpk")
    first.worker("run")
    assert len(fleet.copies("web01")) == 1
    return vm


@contextlib.contextmanager
def partly_unreadable(path: Path, folder: Path) -> Iterator[Path]:
    """The middle of the file cannot be read as long as there is the file that is answered."""
    place, flag, size = folder / "faulty", folder / "away", path.stat().st_size
    place.mkdir()
    flag.touch()
    words = map(str, (path, place, flag, size * 2 // 5, size * 3 // 5))
    with subprocess.Popen([sys.executable, "-m", "tests.support.faulty_file", *words]) as server:
        try:
            wait_for((place / path.name).exists, "the file to be shown")
            subprocess.run(["mount", "--bind", place / path.name, path], check=True)
            yield flag
        finally:
            for mounted in (path, place):
                subprocess.run(["umount", "--lazy", mounted], check=False)
            server.terminate()


def left_out(fleet: Fleet, booted: Booted) -> str:
    booted.member.worker("vmfind")
    vms = fleet.head().contents.vms.values()
    (record,) = [each for each in vms if each.uuid == booted.vm.uuid]
    return record.left_out


def test_it_counts_on_and_becomes_an_ordinary_vm(fleet: Fleet, place: Path) -> None:
    require("qemu-img", "qemu-utils")
    original = counted(fleet, "data", "logs", snapshots=("s1", "s2"))
    number, disks = original.counter(), disks_of(original)
    not_counted_in = disks_of(original, beyond=1 << 20)
    assert number > 0
    (copy,) = fleet.copies("web01")
    first, second = fleet.members.values()
    booted = begun(second, "web01", place)
    assert "cannot be asked" in booted.facts["isolated_because"]
    assert 'cable="false"' in booted.vm.settings.read_text(encoding="utf-8")
    booted.let_it_count()
    again = second.admin("boot", "web01", "--copy", "20261122T203800Z-17", expect=2)
    assert "runs from the copy" in again.stderr
    assert left_out(fleet, booted) == UNFINISHED
    refused = first.admin("remove", "web01", copy.stamp, "--last", "--yes", expect=11)
    assert f"{second.name}:web01" in refused.stderr

    booted.fill()
    files = [f"web01-disk00{number}.vdi.partial" for number in (1, 2, 3)]
    files += [f"{file}.digests" for file in files]
    assert {path.name for path in booted.note.filling.glob("*.vdi*")} == set(files)
    snapshot = ("snapshot", booted.vm.uuid, "delete", booted.note.mark.name)
    assert booted.host.run(*snapshot, check=False).returncode != 0
    booted.vm.stop()
    wait_for(lambda: not (booted.folder / "filling").exists(), "it to be settled by its server")
    settings = booted.vm.settings.read_text(encoding="utf-8")
    assert "<Snapshot " not in settings
    assert not [each for each in places.mounted(kind=SUBTYPE) if str(place) in each.place]
    after = booted.vm.counter()
    assert after >= number + 2
    booted.start()
    booted.let_it_count()
    booted.vm.stop()
    assert booted.vm.counter() >= after + 2
    now = disks_of(booted.vm)
    assert len(set(now.values())) == 3
    assert {**now, "SATA-0-0": ""} == {**disks, "SATA-0-0": ""}
    assert disks_of(booted.vm, beyond=1 << 20) == not_counted_in
    images = sorted((booted.folder / "disks").iterdir())
    assert [image.name for image in images] == [f"web01-disk00{each}.vdi" for each in (1, 2, 3)]
    for image in images:
        subprocess.run(["qemu-img", "check", image], check=True, capture_output=True)
    assert left_out(fleet, booted) == ""
    wait_for(lambda: not list(fleet.folder.glob("state-*/boot-*")), "nothing to be left")
    assert not fleet.record("web01").holds
    first.admin("remove", "web01", copy.stamp, "--last", "--yes")


def test_what_is_thrown_away_is_gone_with_its_hold(fleet: Fleet, place: Path) -> None:
    original = counted(fleet, efi=True)
    variables = original.settings.with_suffix(".nvram").read_bytes()
    _, second = fleet.members.values()
    other = begun(second, "web01", place, "--as", "other", "--network")
    key = original.settings.with_name("key")
    words = ("queryvar", "--name=PK", f"--filename={key}")
    original.host.run("modifynvram", original.uuid, *words)
    assert len(key.read_bytes()) > 99
    assert key.read_bytes() in variables
    assert (other.folder / "other.nvram").read_bytes() == variables
    assert other.vm.info("firmware").startswith("EFI")
    assert other.vm.info("VMState") == "running"
    assert other.facts["isolated_because"] == ""
    assert 'cable="false"' not in other.vm.settings.read_text(encoding="utf-8")
    refused = second.admin("boot", "web01", "--as", "other", "--isolated", expect=2)
    assert all(f"{other.vm.uuid} setlinkstate{card} off" in refused.stderr for card in (1, 3))
    deleted = second.host.run("unregistervm", other.vm.uuid, "--delete", check=False)
    assert deleted.returncode != 0  # it runs
    assert second.admin("boot", "--discard", "other", expect=2)  # there is nobody to ask
    assert other.host.processes(word=other.vm.uuid)
    second.admin("boot", "--discard", "other", "--yes")
    wait_for(lambda: not other.host.processes(word=other.vm.uuid), "its process to end", 60)
    assert not other.folder.exists()
    assert not [each for each in places.mounted(kind=SUBTYPE) if str(place) in each.place]
    assert "other" not in second.host.run("list", "vms").stdout
    assert not list(fleet.folder.glob("state-*/boot-*.json"))
    assert not fleet.record("web01").holds


def test_a_server_that_was_killed_leaves_a_vm_that_does_not_start_until_it_goes_on(
    fleet: Fleet, place: Path
) -> None:
    number = counted(fleet).counter()
    _, second = fleet.members.values()
    booted = begun(second, "web01", place)
    note = booted.note
    booted.let_it_count()
    booted.fill()
    booted.kill_server()
    note.whole.remove()  # as if it had been killed before all was there
    (note.filling / "web01-disk001.vdi.partial.digests").write_bytes(b"")
    with note.partial(note.disks[0]).open("r+b") as file:
        file.seek(2 << 20)
        file.write(bytes(1 << 20))

    running = second.admin("boot", "web01", expect=11)
    assert "poweroff" in running.stderr
    booted.vm.stop()
    assert booted.refused()
    for mounted in places.mounted(kind=SUBTYPE):
        if str(place) in mounted.place:
            subprocess.run(["umount", "--lazy", mounted.place], check=False)
    assert not list(note.place.iterdir())
    assert booted.refused()

    second.worker("run")  # it is off, and was found: no copy is made of it
    assert left_out(fleet, booted) == UNFINISHED
    vms = fleet.head().contents.vms.values()
    assert [each.last_copy for each in vms if each.uuid == booted.vm.uuid] == [None]
    (copy,) = fleet.copies("web01")
    sidecar = copy.directory / f"{copy.stamp}.json"
    kept = sidecar.read_bytes()
    sidecar.chmod(0o640)
    document = json.loads(kept)
    sidecar.write_text(json.dumps({**document, "sha256": "0" * 64}), encoding="utf-8")
    other = second.admin("boot", "web01", expect=1)
    assert "is not what 'web01' was begun with" in other.stderr
    sidecar.write_bytes(kept)
    assert not list(note.place.iterdir())

    second.admin("boot", "web01")
    booted.let_it_count()
    booted.fill()
    booted.stop_without_server()
    second.admin("boot", "--finish", "web01", expect=0)
    # VirtualBox holds back what is not flushed: of the first run that may be lost with the server.
    assert booted.vm.counter() >= number + 2
    booted.start()
    booted.let_it_count()
    booted.vm.stop()
    assert not fleet.record("web01").holds


def test_one_whose_nas_was_away_goes_on_saved_and_is_finished_renamed(
    fleet: Fleet, place: Path
) -> None:
    number = counted(fleet).counter()
    _, second = fleet.members.values()
    (copy,) = fleet.copies("web01")
    with partly_unreadable(copy.directory / f"{copy.stamp}.ova", fleet.folder) as away:
        booted = begun(second, "web01", place)
        wait_for(lambda: booted.vm.info("VMState") == "paused", "its guest to wait for the NAS", 60)
        assert "paused by VirtualBox" in second.admin("status").stdout
        away.unlink()
        second.admin("boot", "web01")
        booted.let_it_count()
        booted.fill()
    wait_for(lambda: booted.vm.serial.read_text().count("R") >= 6, "it to read all", 60)
    assert not {"E", "Z"} & set(booted.vm.serial.read_text())
    assert "paused" not in second.admin("status").stdout
    booted.host.run("controlvm", booted.vm.uuid, "savestate")
    booted.vm.wait_for_state("saved")
    booted.kill_server()
    assert booted.refused()
    second.admin("boot", "web01")  # whole and saved: it goes on where it was, served again
    booted.let_it_count()
    booted.fill()
    booted.stop_without_server()
    booted.host.run("modifyvm", booted.vm.uuid, "--name=web02")
    assert not (booted.folder / "filling").exists()  # VirtualBox takes its folder along
    second.admin("boot", "--finish", "web01", expect=0)
    assert booted.vm.settings == booted.folder.with_name("web02") / "web02.vbox"
    assert not (booted.vm.settings.parent / "filling").exists()
    assert booted.vm.counter() >= number + 4
    booted.start()
    booted.let_it_count()
    booted.vm.stop()
    assert not fleet.record("web01").holds
