"""What a second copy of a VM costs on the wire of each kind of mount, counted by the kernel."""

import os
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.testbed.nas.traffic import sent
from shared.copies import catalogue
from shared.copies.sidecar import Sidecar
from shared.nas import server_copy_probe
from tests.support.disk_files import VmdkReader, content
from tests.support.engine_copies import BLOCK, disk, make
from tests.support.fleet import Fleet, Member
from tests.support.simulated import SimulatedHost
from tests.system.nas.conftest import Share

pytestmark = pytest.mark.nas("guest")

MIB = 2**20


@pytest.fixture
def member(share: Share, tmp_path: Path) -> Iterator[Member]:
    """A host whose workers write to the share."""
    fleet = Fleet(tmp_path, nas=Path(share.on("a")))
    host = SimulatedHost(tmp_path / "hosts", "alpha")
    yield fleet.add(host)
    host.remove()


def scribble(image: Path, block: int) -> None:
    """Changes 4 KiB in the middle of one of the allocated blocks of a VDI file, as a guest does."""
    with image.open("r+b") as file:
        file.seek(0x154 + 4)
        (data,) = struct.unpack("<I", file.read(4))
        file.seek(data + block * MIB + MIB // 2)
        file.write(os.urandom(4096))


def back_up(member: Member) -> tuple[Sidecar, catalogue.Copy]:
    """Runs the workers; answers what the newest copy's sidecar says, and the copy."""
    member.worker("run")
    (*_, copy) = catalogue.read(member.fleet.nas / "web01", None).good
    assert copy.sidecar is not None
    return copy.sidecar, copy


def test_a_backup_sends_only_the_change_where_the_server_copies_and_elsewhere_says_why_not(
    share: Share, member: Member
) -> None:
    """By the worker, as cron starts it."""
    member.configure("backup", engine="parallel")
    vm = member.host.make_vm("web01", mib=40, random_mib=24)
    first, _ = back_up(member)
    assert first.wire is not None
    assert first.wire.copied == 0
    scribble(vm.disk, 3)
    scribble(vm.disk, 17)
    mountpoint = Path(f"/mnt/{share.kind}-a")
    before = written_at(share, mountpoint)
    copies = sent(mountpoint, "COPY")[0] if share.kind == "nfs" else 0
    second, copy = back_up(member)
    assert second.wire is not None
    written = written_at(share, mountpoint) - before
    print(f"{share.kind}: {second.size} bytes, {second.wire}, on the wire: {written}")
    member.admin("verify", "web01")
    index = copy.directory / f"{copy.stamp}.index"
    if share.kind != "nfs3":
        assert second.wire.copied > 0.95 * second.size
        assert second.wire.sent < MIB, "two grains of 64 KiB, and what is around them"
        assert written < 2 * MIB, "with index, side files, database"
        assert index.exists()
    else:
        assert (second.wire.sent, "by itself" in second.wire.reason) == (second.size, True)
        assert not index.exists()
        assert written > second.size
    if share.kind == "nfs":
        assert sent(mountpoint, "COPY")[0] > copies


def written_at(share: Share, mountpoint: Path) -> int:
    """Bytes that the kernel has sent to be written."""
    if share.is_nfs:
        return sent(mountpoint, "WRITE")[1]
    return server_copy_probe.parse_cifs(Path("/proc/fs/cifs/Stats").read_text(encoding="utf-8"))[1]


def test_another_host_reads_the_same(share: Share) -> None:
    """The server has copied what it had been given.

    Nothing of it is only in the cache of the host that asked for it.
    """
    folder = Path(share.on("a"))
    name = uuid.uuid4().hex
    first = make(folder, "1", {"SATA-0-0": disk()})
    second = make(folder, name, {"SATA-0-0": disk(b1=1)}, first)
    assert second.copied > 0
    assert VmdkReader(second.disks()[0]).disk(64 * BLOCK) == content([disk(b1=1)])
    elsewhere = Path(share.on("b", second.ova.name))
    assert elsewhere.read_bytes() == second.ova.read_bytes()
