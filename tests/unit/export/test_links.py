"""Parents that are not what their children note: whose doing that was, by the times of files."""

import os
import time
from pathlib import Path
from uuid import uuid4

import pytest

from shared.export.eligibility import check_eligibility, open_disk
from shared.host.clock import SystemClock
from shared.host.errors import DiskImageError
from shared.virtualbox.inventory import Machine
from tests.support.disk_files import Vdi, content, pattern
from tests.unit.export.conftest import FakeVirtualBox

BLOCK = 65536


def made(
    virtualbox: FakeVirtualBox, *, parent: float, settings: float
) -> tuple[list[Vdi], Machine]:
    """A VM whose disk's parent was written so many seconds after its child, and so the settings.

    The parent's modification UUID is not the one that the child notes. The times lie ahead of now,
    so that those at which the test made the files do not count.
    """
    base = Vdi(64 * BLOCK, {1: pattern(1, BLOCK), 2: pattern(2, BLOCK)})
    leaf = base.child({1: pattern(3, BLOCK)})
    base.modification = uuid4()
    virtualbox.add_disk(leaf, base)
    machine = virtualbox.machine
    files = [image.location for image in machine.chains[0]]
    now = time.time() + 1000
    for file, later in ((files[0], 0.0), (files[1], parent), (machine.settings_file, settings)):
        os.utime(file, ns=(0, int((now + later) * 1e9)))
    return [leaf, base], machine


@pytest.mark.parametrize(
    ("what", "parent", "settings", "accepted"),
    [
        ("the child was written since", -0.001, -100.0, True),
        ("at the same moment", 0.0, -100.0, True),
        ("merged: the parent, and then the settings", 0.002, 0.01, True),
        ("merged, and the settings were written later", 9.9, 5000.0, True),
        ("edited after the VM was stopped", 0.002, 0.001, False),
        ("edited long after the VM was stopped", 3600.0, 0.0, False),
        ("edited, and the settings were changed", 3600.0, 7200.0, False),
    ],
)
def test_whose_doing_a_change_of_the_parent_was(
    virtualbox: FakeVirtualBox, what: str, parent: float, settings: float, accepted: bool
) -> None:
    images, machine = made(virtualbox, parent=parent, settings=settings)
    found = check_eligibility(machine, SystemClock())
    if not accepted:
        assert "was changed after it was made" in found.reason, what
        assert "delete the snapshots" in found.reason
        return
    assert found.reason == "", what
    (source,) = found.disks
    (link,) = source.links
    assert (link.noted, link.found) == (images[0].parent_modification, images[1].modification)
    with open_disk(source) as chain:
        assert (
            b"".join(block.read() for block in chain.blocks()) == content(images)[BLOCK : 3 * BLOCK]
        )


def test_a_parent_that_was_put_there_from_elsewhere_is_told_by_its_ctime(
    virtualbox: FakeVirtualBox,
) -> None:
    """An older file in its place, with its old time of modification."""
    _, machine = made(virtualbox, parent=-50.0, settings=-1.0)
    leaf, base = (Path(image.location) for image in machine.chains[0])
    assert check_eligibility(machine, SystemClock()).reason == ""
    for file in (leaf, Path(machine.settings_file), base):
        time.sleep(0.02)  # the file system's clock is coarse
        os.utime(file, ns=(0, 0))
    assert "was changed" in check_eligibility(machine, SystemClock()).reason


def test_another_change_of_the_parent_than_the_accepted_one_is_refused(
    virtualbox: FakeVirtualBox,
) -> None:
    """Between the look and the lock, or in a clone: what counts is the link that was looked at."""
    (_, base), machine = made(virtualbox, parent=-1.0, settings=-1.0)
    (source,) = check_eligibility(machine, SystemClock()).disks
    base.modification = uuid4()
    base.write(source.files[1])
    with pytest.raises(DiskImageError, match="was changed after it was made"):
        open_disk(source)
