"""A VM runs from a copy that is read over NFS and SMB, and counts on.

The mounts are real, in a machine that is emulated (`tests/support/relay.py`); the VM runs here.
"""

from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.relay import relay
from tests.support.waiting import wait_for
from tests.system.test_boot_virtualbox import begun, counted, fleet, place

__all__ = ["fleet", "place"]

pytestmark = [pytest.mark.virtualbox, pytest.mark.timeout(900)]


def test_it_counts_on_from_nfs_and_from_smb(fleet: Fleet, place: Path) -> None:
    number = counted(fleet).counter()
    _, second = fleet.members.values()
    (copy,) = fleet.copies("web01")
    ova = copy.directory / f"{copy.stamp}.ova"
    with relay(ova) as nas:
        for kind in ("nfs", "smb"):
            with nas.shown(kind):
                booted = begun(second, "web01", place, "--as", kind)
                booted.let_it_count()
                booted.fill()
                booted.vm.stop()
                gone = booted.folder / "filling"
                wait_for(lambda gone=gone: not gone.exists(), "it to be settled by its server")
            assert nas.read(kind) >= ova.stat().st_size
            after = booted.vm.counter()
            assert after >= number + 2
            booted.start()
            booted.let_it_count()
            booted.vm.stop()
            assert booted.vm.counter() >= after + 2
    assert not fleet.record("web01").holds
