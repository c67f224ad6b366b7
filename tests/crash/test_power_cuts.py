"""A host loses its power while a VM's disk is filled and gets its name, or is taken back in place.

What was not flushed is gone, on real file systems: more than a kill takes away.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID

import pytest

from coordinator.booting import boot_hold, settling
from coordinator.booting.filling import Filler
from coordinator.booting.laying_out import lay_out
from coordinator.booting.served_disk import ServedDisk
from coordinator.mounting.steady_copy import SteadyCopy
from shared.host.clock import SystemClock
from shared.ova.disk import Chain
from shared.ova.vdi_writing import RawFile
from shared.tasks import boot_note, disk_swap
from shared.tasks.boot_note import BootDisk, BootNote, Phase
from shared.tasks.swap_note import Swap, SwapNote, SwappedDisk
from shared.virtualbox import scratch
from tests.support.copies import ova, vmdk
from tests.support.drawing import SEED
from tests.support.losing_power import MAKING, Device, broken_off, drawn_cuts, forgetful
from tests.support.proving import PROVE

CUTS: Final = 100 if PROVE else 6
GRAIN: Final = 65536
DATA: Final = os.urandom(GRAIN)
GRAINS: Final = {number: DATA[number:] + DATA[:number] for number in range(0, 128, 5)}
IDENTIFIER: Final = "11111111-2222-3333-4444-555555555555"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if PROVE else 300)]


@pytest.fixture(params=MAKING)
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Device]:
    """The disk of the host, with the place of its VMs and its notes."""
    with forgetful(tmp_path, request.param) as device:
        yield device


class Booted:
    """A VM that runs from its copy, and is off."""

    def __init__(self, device: Device, nas: Path) -> None:
        self._device, self._copy = device, nas / "copy.ova"
        self._copy.write_bytes(ova(vmdk(GRAINS, 129)))
        disks = (BootDisk("1", IDENTIFIER, "web-disk001.vdi"),)
        names = ("web", IDENTIFIER, "original", "web", "20261122T203800Z-17", "digest")
        folder = device.place / "vms" / "web"
        self.file = device.place / "state" / f"boot-{'a' * 32}.json"
        self.note = BootNote(
            self.file, folder, *names, disks, "2026-11-22T20:38:00Z", phase=Phase.RUNNING
        )
        self.target = self.note.place / disks[0].file
        self.partial = self.note.partial(disks[0])

    def prepare(self) -> None:
        """It was just begun."""
        for folder in (self.note.folder.parent, self.file.parent):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        scratch.make(self.note.folder, self.note.mark)
        self.note.place.mkdir()
        self.note.filling.mkdir()
        with SteadyCopy(self._copy) as copy:
            lay_out(copy.reader().disks[0], self.partial, UUID(IDENTIFIER))
        boot_note.write(self.note)

    def go_on(self) -> None:
        """What its server does, and `boot --finish` after it has died."""
        note = boot_note.read(self.file)
        if note is None:
            return
        if not settling.is_begun(note):
            with (
                SteadyCopy(self._copy) as copy,
                ServedDisk(self.partial, lambda *of: copy.read(1, *of), spare=0) as disk,
            ):
                assert Filler([disk], again_seconds=0.01).run()
            note.whole.write({"stamp": note.stamp, "index": note.index})
        assert settling.settle(self.site(), note) == ""

    def site(self) -> Any:
        """A VirtualBox that has merged what the guest wrote."""
        settings = SimpleNamespace(snapshots=(), images={})
        file = str(self.note.folder / "web.vbox")
        machine = SimpleNamespace(uuid=IDENTIFIER, settings_file=file, settings=settings, images=())
        info = SimpleNamespace(state="poweroff", session="", stopped=True)
        return SimpleNamespace(
            vboxmanage=SimpleNamespace(info=lambda _uuid: info),
            inventory=lambda: {IDENTIFIER: machine},
            clock=SystemClock(),
        )

    def require_whole(self, where: str) -> None:
        """The disk is what is in the copy."""
        with Chain.open([self.target]) as disk:
            seen = disk.beginning(disk.size)
        expected = b"".join(GRAINS.get(number, bytes(GRAIN)) for number in range(129))
        whole = seen[: len(expected)] == expected  # compared in words that takes minutes
        assert whole, f"{where}: a disk has its name and is not whole"


@pytest.fixture
def booted(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Booted:
    """See `Booted`."""
    monkeypatch.setattr(boot_hold, "end", lambda _site, _note: None)
    return Booted(device, tmp_path)


def cut_after(
    device: Device,
    work: Callable[[], object],
    prepare: Callable[[], object],
    look: Callable[[], object],
) -> None:
    """Cuts the power when the work is done, some times, and looks."""
    for loss in range(8):
        prepare()
        device.settle()
        broken_off(work, device.place)
        device.lose_power(loss)
        look()


def test_no_disk_has_its_name_that_is_not_whole(device: Device, booted: Booted) -> None:
    for where in drawn_cuts(device, booted.go_on, booted.prepare, CUTS, SEED):
        if booted.target.exists():
            booted.require_whole(where)
        booted.go_on()
        booted.require_whole(where)
        assert not booted.file.exists(), where
        assert not booted.note.filling.exists(), where
        assert scratch.mark_in(booted.note.folder) is None, where


def test_a_disk_that_is_not_flushed_is_found_out(
    device: Device, booted: Booted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServedDisk, "flush", lambda _self: None)

    with pytest.raises(AssertionError, match="is not whole"):
        cut_after(device, booted.go_on, booted.prepare, lambda: booted.require_whole("found"))


def test_the_folder_of_a_vm_is_known_by_its_mark(device: Device) -> None:
    """Else nobody would remove it, nor the VM in it."""
    mark = scratch.Mark("vmbackup-boot", IDENTIFIER)
    for loss in range(CUTS):
        folder = device.place / f"vm-{loss}"
        scratch.make(folder, mark)
        device.lose_power(SEED + loss)
        assert scratch.mark_in(folder) == mark, f"lost by {SEED + loss}"


class TakenBack:
    """A VM with two disks that is taken back in place."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.note = SwapNote(device.place / "state" / "into-web.json")
        self.folder = device.place / "vms"
        self.places = [self.folder / "first.vdi", self.folder / "second.vdi"]

    def prepare(self) -> None:
        """Its disks are there."""
        for folder in (self.folder, self.note.path.parent):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        for place in self.places:
            self.write(place, b"old")

    def write(self, place: Path, content: bytes) -> None:
        """A disk, as `restore --into` makes one."""
        with RawFile(place, GRAIN) as file:
            file.write(0, [(content * GRAIN)[:GRAIN]])
            file.finish()

    def take_back(self) -> None:
        """What `restore --into` does when it has the copy."""
        disks = tuple(
            SwappedDisk(str(each), f"{each}-new", f"{each}-old", each.stat().st_ino)
            for each in self.places
        )
        swap = self.note.write(Swap(IDENTIFIER, "web", "20261122T203800Z-17", disks))
        for disk in disks:
            self.write(Path(disk.new), b"new")
        whole = tuple(replace(disk, after=disk_swap.inode_of(disk.new)) for disk in disks)
        swap = self.note.write(replace(swap, disks=whole))
        disk_swap.swap_disks(swap, lambda: None)
        self.note.write(replace(swap, done="2026-11-22T20:38:00Z"))

    def content(self) -> set[bytes]:
        """What is in its disks: one kind in all."""
        found = {place.read_bytes() for place in self.places}
        assert found <= {(kind * GRAIN)[:GRAIN] for kind in (b"old", b"new")}
        return {each[:3] for each in found}


def test_a_vm_that_is_taken_back_has_all_old_disks_or_all_new_ones(device: Device) -> None:
    """Or has no first disk, so that VirtualBox does not start it."""
    taken = TakenBack(device)
    for where in drawn_cuts(device, taken.take_back, taken.prepare, CUTS, SEED):
        if taken.places[0].exists():
            assert all(place.exists() for place in taken.places), where
            assert len(taken.content()) == 1, where
        swap = taken.note.read()
        if swap is not None:
            disk_swap.resume(taken.note, swap, "2026-11-22T20:38:00Z")
        assert len(taken.content()) == 1, where
        assert not list(taken.folder.glob("*-new")), where


def test_new_disks_that_are_not_flushed_are_found_out(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by `finish`, nor by what else makes the kernel begin with it."""
    taken = TakenBack(device)

    def write(disk: RawFile, place: int, pieces: Sequence[bytes | bytearray]) -> None:
        with disk.path.open("r+b") as file:
            file.seek(place)
            file.write(b"".join(pieces))

    monkeypatch.setattr(RawFile, "write", write)
    monkeypatch.setattr(RawFile, "finish", lambda _disk: None)
    with pytest.raises(AssertionError):
        cut_after(device, taken.take_back, taken.prepare, taken.content)
