"""On a file system that shares blocks between files, here a real XFS, copies laid out for it store
what did not change once.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.export.delta import DeltaPlan
from tests.contract.engine_vms import MIB, Bench, change, texts
from tests.support.packages import require
from tests.support.virtualbox import RealHost
from tests.support.waiting import ended

pytestmark = pytest.mark.virtualbox

#: Room for the bookkeeping of the file system itself.
SLACK = 2 * MIB


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """An empty XFS with reflink, as a NAS may have."""
    if os.geteuid() != 0:
        pytest.skip("a file system of its own needs root")
    require("mkfs.xfs", "xfsprogs")
    image, place = tmp_path / "image", tmp_path / "xfs"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(512 * MIB)
    subprocess.run(
        ["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True, stdin=subprocess.DEVNULL
    )
    # A small allocsize: what XFS reserves behind the end of a growing file is no data.
    subprocess.run(
        ["mount", "-o", "loop,allocsize=64k", image, place], check=True, stdin=subprocess.DEVNULL
    )
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True, stdin=subprocess.DEVNULL)


def used(place: Path) -> int:
    """Bytes of the file system that hold something."""
    os.sync()
    status = os.statvfs(place)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@pytest.mark.parametrize("aligned", [True, False])
def test_what_did_not_change_is_stored_once(
    xfs: Path, virtualbox_host: RealHost, *, aligned: bool
) -> None:
    bench = Bench(virtualbox_host)
    uuid = bench.create("shared")
    disk = bench.disk(uuid, texts(10, 120 * MIB))
    exporter = bench.parallel(plan=DeltaPlan(xfs / "1.index", aligned=aligned))
    ended(exporter.start(bench.machine(uuid), xfs / "1.ova")).result()
    change(
        disk, 20, 1500
    )  # what follows is shifted by some sectors, and not by a block of the file system
    before, size = used(xfs), (xfs / "1.ova").stat().st_size
    assert size > 15 * SLACK
    again = DeltaPlan(xfs / "2.index", xfs / "1.ova", xfs / "1.index", aligned=aligned)
    ended(bench.parallel(plan=again).start(bench.machine(uuid), xfs / "2.ova")).result()
    grown = used(xfs) - before
    if aligned:
        assert grown < size * 0.05 + SLACK
    else:
        assert grown > size * 0.4, "nothing is shared without it: the setting would be of no use"
