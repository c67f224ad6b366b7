"""Guests of other kinds than that of the test bed go on from their copy: a real boot loader, and
one whose firmware must have its variables to find it.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.efi_guest import make_efi_vm, started
from tests.support.fleet import Fleet
from tests.support.grub_guest import make_grub_vm, strokes
from tests.support.proving import only_when_proving
from tests.support.virtualbox import RealHost, RealVm
from tests.support.waiting import wait_for
from tests.system.test_boot_virtualbox import begun, fleet, place

__all__ = ["fleet", "place"]

pytestmark = pytest.mark.virtualbox


def copied(fleet: Fleet, make: Callable[[RealHost], RealVm]) -> RealVm:
    """Makes a VM on the first host, and its copy."""
    first, _ = fleet.members.values()
    assert isinstance(first.host, RealHost)
    vm = make(first.host)
    first.worker("run")
    return vm


def test_a_boot_loader_goes_on_in_the_file_system_of_its_copy(fleet: Fleet, place: Path) -> None:
    original = copied(fleet, lambda host: make_grub_vm(host, "web01", made=7))
    _, second = fleet.members.values()
    booted = begun(second, "web01", place)
    booted.let_it_count()
    booted.fill()
    booted.vm.stop()
    wait_for(lambda: not (booted.folder / "filling").exists(), "it to be settled by its server")
    after = strokes(booted.vm)
    assert after >= 7 + 2
    booted.start()
    booted.let_it_count()
    booted.vm.stop()
    assert strokes(booted.vm) >= after + 2
    assert strokes(original) == 7


@only_when_proving  # the firmware unpacks itself for a minute
def test_firmware_finds_its_guest_by_the_variables_of_the_copy(fleet: Fleet, place: Path) -> None:
    original = copied(fleet, lambda host: make_efi_vm(host, "web01", counter=500, starts=41))
    variables = original.settings.with_suffix(".nvram").read_bytes()
    (copy,) = fleet.copies("web01")
    kept = (copy.directory / f"{copy.stamp}.ova").read_bytes()
    assert variables in kept
    _, second = fleet.members.values()
    booted = begun(second, "web01", place)
    booted.let_it_count(600)
    # Firmware may print dots, too.
    wait_for(lambda: b"B.." in booted.vm.serial.read_bytes(), "its guest to count", 600)
    booted.fill()
    booted.vm.stop()
    wait_for(lambda: not (booted.folder / "filling").exists(), "it to be settled by its server")
    assert booted.vm.counter() >= 502
    assert started(booted.vm) == 42
    words = ("web01", "--as", "again", "--to", str(place), "--json")
    again = second.admin("restore", *words).json
    assert started(RealVm(booted.host, again["uuid"], "again")) == 41
    assert started(original) == 41
    assert original.settings.with_suffix(".nvram").read_bytes() == variables
    assert (copy.directory / f"{copy.stamp}.ova").read_bytes() == kept
