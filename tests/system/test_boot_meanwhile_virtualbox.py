"""What its user does in VirtualBox to a VM that runs from its copy.

The rest, which the simulation does alike: tests/simulated/test_booted_meanwhile.py.
"""

from pathlib import Path

import pytest

from coordinator.booting import locks
from tests.support.fleet import Fleet
from tests.support.virtualbox import RealHost
from tests.support.waiting import wait_for
from tests.system.test_boot_virtualbox import begun, fleet, place

__all__ = ["fleet", "place"]

pytestmark = pytest.mark.virtualbox


def test_one_that_is_moved_needs_its_copy_no_more_and_one_that_is_deleted_is_told(
    fleet: Fleet, place: Path
) -> None:
    first, second = fleet.members.values()
    assert isinstance(first.host, RealHost)
    first.host.make_vm("web01", mib=24, random_mib=6)
    first.worker("run")
    moved = begun(second, "web01", place, "--as", "moved")
    note = moved.note
    moved.fill()
    with locks.alone(note):
        moved.vm.stop()
        (place / "elsewhere").mkdir()
        target = f"--folder={place / 'elsewhere'}"
        moved.host.run("movevm", moved.vm.uuid, "--type=basic", target)
        again = ("boot", "web01", "--as", "moved", "--dry-run", "--to")
        second.admin(*again, str(place / "elsewhere"))
        assert "by now" in second.admin(*again, str(place), expect=2).stderr
    wait_for(lambda: not note.file.exists(), "it to be settled by its server", 120)
    assert not moved.folder.exists()
    assert not fleet.record("web01").holds
    assert "<Snapshot " not in moved.vm.settings.read_text(encoding="utf-8")
    moved.start()
    moved.let_it_count()
    moved.vm.stop()

    deleted = begun(second, "web01", place, "--as", "deleted")
    deleted.fill()
    note = deleted.note
    with locks.alone(note):
        deleted.vm.stop()
        refused = deleted.host.run("unregistervm", deleted.vm.uuid, "--delete", check=False)
        assert "VERR_WRITE_PROTECT" in refused.stderr
        assert note.partial(note.disks[0]).exists()
    told = second.admin("boot", "--finish", "deleted", expect=2)
    assert "--discard deleted" in told.stderr
    second.admin("boot", "--discard", "deleted", "--yes")
    assert not deleted.folder.exists()
    assert not fleet.record("web01").holds
