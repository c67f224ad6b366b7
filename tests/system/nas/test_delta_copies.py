"""What a second copy of a disk costs on the wire, counted by the kernel, on real mounts of each kind."""

import re
import uuid
from pathlib import Path

import pytest

from tests.support.disk_files import VmdkReader, content
from tests.support.engine_copies import BLOCK, disk, make
from tests.system.nas.conftest import Share

pytestmark = pytest.mark.nas("guest")


def sent(mountpoint: Path, operation: str) -> tuple[int, int]:
    """How often an NFS operation was asked for at a mount, and the bytes sent for it."""
    text = Path("/proc/self/mountstats").read_text(encoding="ascii")
    mount = re.search(rf"mounted on {re.escape(str(mountpoint))} with.*?(?=\ndevice |\Z)", text, re.DOTALL)
    assert mount
    found = re.search(rf"^\s*{operation}: (\d+) \d+ \d+ (\d+)", mount[0], re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def test_only_the_change_goes_over_nfs_4_2_and_elsewhere_all_of_it(share: Share) -> None:
    folder, mountpoint = Path(share.on("a")), Path(f"/mnt/{share.kind}-a")
    first = make(folder, "1", {"SATA-0-0": disk()}, wire_only=True)
    before, copies = sent(mountpoint, "WRITE") if share.is_nfs else (0, 0), sent(mountpoint, "COPY") if share.is_nfs else (0, 0)
    second = make(folder, "2", {"SATA-0-0": disk(b7=3, b30=4)}, first, wire_only=True)
    assert VmdkReader(second.disks()[0]).disk(64 * BLOCK) == content([disk(b7=3, b30=4)])
    if share.kind == "nfs":
        assert second.sent == ""
        assert sent(mountpoint, "COPY")[0] > copies[0]
        assert sent(mountpoint, "WRITE")[1] - before[1] < second.ova.stat().st_size / 4, "2 grains of 40, and what is around them"
    else:
        assert "NFS 4.2" in second.sent
        assert second.copied == 0
    if share.kind == "nfs3":
        assert sent(mountpoint, "WRITE")[1] - before[1] > second.ova.stat().st_size * 0.9


def test_another_host_reads_the_same(share: Share) -> None:
    """The server has copied what it had been given: nothing of it is only in the cache of the host that asked for it."""
    folder = Path(share.on("a"))
    name = uuid.uuid4().hex
    first = make(folder, "1", {"SATA-0-0": disk()}, wire_only=True)
    second = make(folder, name, {"SATA-0-0": disk(b1=1)}, first, wire_only=True)
    elsewhere = Path(share.on("b", second.ova.name))
    assert elsewhere.read_bytes() == second.ova.read_bytes()
