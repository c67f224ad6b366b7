"""An image that was made of a copy, as qemu-img sees it."""

import subprocess
from pathlib import Path
from uuid import uuid4

from shared.ova.vdi_writing import VdiFile
from tests.support import copies as make
from tests.support.packages import require
from tests.unit.ova.test_unpacking import CAPACITY, DISK, GRAINS, unpack


def test_it_is_in_order_and_holds_the_disk(tmp_path: Path) -> None:
    require("qemu-img", "qemu-utils")
    path, raw = tmp_path / "x.vdi", tmp_path / "x.raw"
    unpack(tmp_path, VdiFile(path, len(DISK), uuid4()), make.vmdk(GRAINS, CAPACITY))
    subprocess.run(["qemu-img", "check", path], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", path, raw], check=True)
    assert raw.read_bytes()[: len(DISK)] == DISK
