"""Chains of images as the real VirtualBox leaves them: merged, and of snapshots of a running VM.

The oracle is what qemu-img reads from a clone that VirtualBox made of the disk.
"""

import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from shared.copies.sidecar import Sidecar
from shared.ova.vdi import VdiImage
from tests.support.fleet import Fleet, Member
from tests.support.packages import require
from tests.support.virtualbox import RealVm, Testbed
from tests.system.test_frozen_virtualbox import disk_of, host_on

pytestmark = pytest.mark.virtualbox


class Chained:
    """A VM on a file system with reflinks, and its backups by the engine that is chosen for it."""

    def __init__(self, fleet: Fleet, member: Member, vm: RealVm) -> None:
        self.fleet, self.member, self.vm = fleet, member, vm

    def snapshot(self, name: str, *options: str) -> None:
        self.vm.host.run("snapshot", self.vm.uuid, "take", name, *options)

    def merge(self, name: str) -> None:
        self.vm.host.run("snapshot", self.vm.uuid, "delete", name)

    def run(self) -> None:
        self.vm.start()
        self.vm.stop()

    def backup(self) -> Sidecar:
        """Backs it up, and compares the disk in the copy with a clone that VirtualBox makes."""
        before, folder = len(self.fleet.copies("web01")), self.vm.host.vms
        self.member.worker("run")
        copies = self.fleet.copies("web01")
        assert len(copies) == before + 1
        clone, newest = folder / f"oracle-{before}.vdi", copies[-1]
        self.vm.host.run("clonemedium", "disk", self.vm.info("SATA-0-0"), clone)
        self.vm.host.run("closemedium", "disk", clone)
        made = disk_of(newest.directory / f"{newest.stamp}.ova", folder)
        subprocess.run(["qemu-img", "compare", made, clone], check=True)
        for file in (made, clone):
            file.unlink()
        assert newest.sidecar is not None
        return newest.sidecar


@pytest.mark.timeout(600)
def test_what_virtualbox_does_to_a_chain_does_not_cost_the_fast_engine_and_an_edit_does(
    virtualbox_testbed: Testbed, tmp_path: Path
) -> None:
    require("qemu-img", "qemu-utils")
    with host_on("xfs", virtualbox_testbed, tmp_path) as host:
        fleet = Fleet(host.vms.parent)
        member = fleet.add(host)
        member.configure("backup", changed="auto", keep_last=9)
        vm = host.make_vm("web01", mib=64, random_mib=20)
        member.worker("vmfind")
        chained = Chained(fleet, member, vm)
        vm.start()
        chained.snapshot("s1")  # of a running VM: the base has a newer UUID than is noted
        vm.stop()
        assert not _as_noted(vm)
        first = chained.backup()
        assert (first.engine, first.engine_reason, first.frozen) == ("parallel", "", True)
        vm.start()
        chained.snapshot("s2", "--live")
        vm.stop()
        second = chained.backup()
        assert (second.engine, second.frozen, second.unread > 15 << 20) == ("parallel", True, True)

        chained.merge("s1")  # off: into the base; s2's disk notes the UUID of what is gone
        merged = chained.backup()
        assert (merged.engine, merged.engine_reason) == ("parallel", "")
        vm.start()
        chained.snapshot("s3")
        chained.merge("s2")  # while it runs
        vm.kill()
        assert chained.backup().engine == "parallel"

        _edit(vm.disk)
        edited = chained.backup()
        assert edited.engine == "vboxmanage"
        assert f"its parent {vm.disk} was changed after it was made" in edited.engine_reason
        chained.merge("s3")
        assert chained.backup().engine == "parallel"


def _as_noted(vm: RealVm) -> bool:
    with VdiImage.open(Path(vm.info("SATA-0-0"))) as leaf, VdiImage.open(vm.disk) as base:
        return leaf.header.parent_modification == base.header.modification


def _edit(disk: Path) -> None:
    """As if it had run by itself elsewhere: another byte, and another modification UUID."""
    with VdiImage.open(disk) as image:
        place = image.place(0)
    with disk.open("r+b") as file:
        file.seek(0x198)
        file.write(uuid4().bytes_le)
        file.seek(place + 3000)
        file.write(b"edited")
