"""Guests of other kinds than that of the test bed go on from their copy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.grub_guest import make_grub_vm, strokes
from tests.support.virtualbox import RealHost, RealVm, wait_for
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


def has_counted(host: RealHost) -> RealVm:
    vm = make_grub_vm(host, "web01")
    vm.start()
    wait_for(lambda: vm.beats() >= 2, "two beats", 90)
    vm.stop()
    return vm


def test_a_boot_loader_goes_on_in_the_file_system_of_its_copy(fleet: Fleet, place: Path) -> None:
    original = copied(fleet, has_counted)
    number = strokes(original)
    assert number >= 2
    _, second = fleet.members.values()
    booted = begun(second, "web01", place)
    booted.let_it_count()
    booted.fill()
    booted.vm.stop()
    wait_for(lambda: not (booted.folder / "filling").exists(), "it to be settled by its server")
    after = strokes(booted.vm)
    assert after >= number + 2
    booted.start()
    booted.let_it_count()
    booted.vm.stop()
    assert strokes(booted.vm) >= after + 2
    assert strokes(original) == number
