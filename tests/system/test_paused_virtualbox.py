"""VMs of the real VirtualBox that stand still for a moment while their disks are cloned."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared.copies import sidecar
from shared.copies.sidecar import Sidecar
from tests.support.file_systems import mounted
from tests.support.fleet import Fleet, Member
from tests.support.packages import require
from tests.support.virtualbox import RealVm, Testbed, stopped, wait_for
from tests.system.test_frozen_virtualbox import HostElsewhere
from tests.system.test_running_virtualbox import pristine

pytestmark = pytest.mark.virtualbox


@pytest.fixture
def member(virtualbox_testbed: Testbed, tmp_path: Path) -> Iterator[Member]:
    """A real host whose VMs are on an XFS, and are paused for their backups."""
    require("qemu-img", "qemu-utils")
    with mounted("xfs", tmp_path) as place:
        host = HostElsewhere(virtualbox_testbed, place / "vms")
        try:
            host.share(place)
            member = Fleet(tmp_path).add(host)
            member.configure("backup", running="pause", running_hours=0)
            yield member
        finally:
            host.remove()


def described(member: Member, name: str) -> Sidecar:
    """The newest copy."""
    copy = member.fleet.copies(name)[-1]
    return sidecar.read(copy.directory, copy.stamp)


def restored_counter(member: Member, vm: RealVm) -> int:
    """What the guest had counted to in its newest copy."""
    place = member.host.vms / "restored"
    member.admin("restore", vm.name, "--as", "again", "--to", str(place))
    listed = member.host.run("list", "vms").stdout
    uuid = listed.partition('"again" {')[2][:36]
    return RealVm(member.host, uuid, "again").counter()


def test_a_guest_that_counts_is_paused_for_a_moment(member: Member) -> None:
    vm = member.host.make_vm("server", mib=64, random_mib=40)
    vm.start()
    process, before = vm.process().pid, vm.beats()
    member.worker("run")
    print(member.worker("backup", "--dry-run").stdout)
    assert member.fleet.states() == {"server": "CLEAN"}
    assert vm.info("VMState") == "running"
    assert vm.process().pid == process
    pristine(member, vm)
    made = described(member, "server")
    assert (made.engine, made.not_paused) == ("parallel", "")
    after = vm.beats()
    assert before - 1 <= restored_counter(member, vm) <= after + 1
