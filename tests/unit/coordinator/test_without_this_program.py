"""What the manual says of copies where this program is not there, done as it says."""

import hashlib
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import engine_copies, guest_disks
from tests.support.disk_files import Vdi
from tests.support.packages import require

MANUAL = Path(__file__).parents[3] / "docs" / "restore.md"
BLOCK = 1 << 20


def told(first: str, here: dict[str, str]) -> list[str]:
    """The words of the command of the manual that begins so, with others for its example's."""
    lines = MANUAL.read_text("utf-8").split("\n")
    (line,) = (each for each in lines if each.startswith(f"    {first} "))
    for word, other in here.items():
        line = line.replace(word, other)
    return shlex.split(line.removesuffix(" &"), comments=True)


@pytest.mark.slow
def test_a_disk_is_shown_by_other_programs(tmp_path: Path) -> None:
    for program, package in (
        ("nbdfuse", "libnbd-bin"),
        ("qemu-nbd", "qemu-utils"),
        ("fusermount3", "fuse3"),
    ):
        require(program, package)
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no /dev/fuse")
    files = tmp_path / "files"
    guest_disks.tree(files)
    data = guest_disks.ext(tmp_path / "image", files).read_bytes()
    blocks = {at // BLOCK: data[at : at + BLOCK] for at in range(0, len(data), BLOCK)}
    copy = engine_copies.make(tmp_path, "STAMP", {"SATA-0-0": Vdi(len(data), blocks, BLOCK)})
    place = tmp_path / "place"
    place.mkdir()

    here = {"/nas/web01/STAMP.ova": str(copy.ova), "/tmp/web01": str(place)}
    (listed,) = (
        line
        for line in guest_disks.run(*told("tar -tvRf", here)).split("\n")
        if line.endswith(".vmdk")
    )
    found = re.match(r"block (\d+): \S+ \S+ +(\d+) ", listed)
    assert found
    here |= {"OFFSET": str((int(found[1]) + 1) * 512), "SIZE": found[2]}
    with subprocess.Popen(told("nbdfuse", here), stdin=subprocess.DEVNULL) as server:
        try:
            shown = place / "disk1.img"
            end = time.monotonic() + 120
            while not shown.exists():
                assert server.poll() is None
                assert time.monotonic() < end
                time.sleep(0.1)
            digest = hashlib.sha256(shown.read_bytes()).digest()
        finally:
            subprocess.run(told("fusermount3", here), check=False)
            server.wait(60)
    assert digest == hashlib.sha256(data).digest()
    assert not list(place.iterdir())
