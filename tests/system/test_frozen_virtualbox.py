"""VMs of the real VirtualBox on file systems with reflinks: started while they are backed up."""

import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.bench.second_copies import change
from shared.copies import sidecar_files
from tests.support.file_systems import mounted
from tests.support.fleet import Fleet
from tests.support.packages import require
from tests.support.proving import only_when_proving
from tests.support.virtualbox import RealHost, RealVm, Testbed, stopped
from tests.support.waiting import wait_for

pytestmark = pytest.mark.virtualbox


class HostElsewhere(RealHost):
    """A host whose VMs are in another directory."""

    def __init__(self, testbed: Testbed, place: Path) -> None:
        self._place = place
        place.mkdir()
        super().__init__(testbed, f"t{os.getpid()}-{place.parent.name}")

    @property
    def vms(self) -> Path:
        return self._place


@contextmanager
def host_on(kind: str, testbed: Testbed, folder: Path) -> Iterator[RealHost]:
    """A host whose VMs are on a file system of that kind."""
    with mounted(kind, folder) as place:
        host = HostElsewhere(testbed, place / "vms")
        try:
            host.share(place)
            yield host
        finally:
            host.remove()


def raw(disk: Path, folder: Path) -> Path:
    """What qemu-img reads from a copy of the disk that `cp` made."""
    copied, target = folder / "oracle.vdi", folder / "oracle.raw"
    subprocess.run(["cp", "--reflink=never", disk, copied], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", copied, target], check=True)
    return target


def disk_of(ova: Path, folder: Path) -> Path:
    """The disk in a copy."""
    with tarfile.open(ova) as archive:
        (member,) = (entry for entry in archive if entry.name.endswith(".vmdk"))
        archive.extract(member, folder, filter="data")
    return folder / member.name


@pytest.mark.parametrize("kind", ["xfs", pytest.param("btrfs", marks=only_when_proving)])
def test_a_vm_is_started_while_it_is_backed_up(
    virtualbox_testbed: Testbed, tmp_path: Path, kind: str
) -> None:
    require("qemu-img", "qemu-utils")
    with host_on(kind, virtualbox_testbed, tmp_path) as host:
        fleet = Fleet(tmp_path)
        member = fleet.add(host)
        member.configure("backup", changed="auto", engine="parallel")
        vm = host.make_vm("web01", mib=120, random_mib=90)
        vm.start()
        vm.stop()
        counted, expected = vm.counter(), raw(vm.disk, tmp_path)
        for worker in ("vmfind", "notifier"):
            member.worker(worker)
        running = member.start("vmbackup-worker", "-v", "backup")
        with stopped(running, partial_copies(fleet), "the export begins"):
            _start(vm)
            assert list(host.vms.rglob("*.frozen")) != []
        output = running.communicate(timeout=120)[0]
        assert running.returncode == 0, output

        assert fleet.states() == {"web01": "RUNNING"}
        (copy,) = fleet.copies("web01")
        assert sidecar_files.read(copy.directory, copy.stamp).frozen
        made = disk_of(copy.directory / f"{copy.stamp}.ova", tmp_path)
        subprocess.run(["qemu-img", "compare", made, expected], check=True)

        vm.stop()
        assert vm.counter() > counted
        member.worker("run")
        assert fleet.states() == {"web01": "CLEAN"}
        newest = fleet.copies("web01")[-1]
        assert newest.stamp != copy.stamp
        made = disk_of(newest.directory / f"{newest.stamp}.ova", tmp_path)
        subprocess.run(["qemu-img", "compare", made, raw(vm.disk, tmp_path)], check=True)
        member.configure("backup", changed="off")
        member.worker("run")
        assert list(host.vms.rglob(".vmbackup")) == []


def partial_copies(fleet: Fleet) -> Callable[[], bool]:
    """Whether a copy of web01 is being written."""
    return lambda: list(fleet.nas.glob("web01/.*.partial.ova")) != []


def _start(vm: RealVm) -> None:
    """Starts it at once: the copy's file is made after the locks were let go."""
    vm.host.run("startvm", vm.uuid, "--type=headless")
    wait_for(lambda: vm.beats() > 0, "the guest to boot", seconds=90)


def test_a_copy_that_took_over_what_nobody_read_is_imported_by_virtualbox(
    virtualbox_testbed: Testbed, tmp_path: Path
) -> None:
    """Its manifest has sizes instead of digests. The NAS is on the file system that shares blocks.

    Twice, so that what was taken over is taken over again.
    """
    require("qemu-img", "qemu-utils")
    with host_on("xfs", virtualbox_testbed, tmp_path) as host:
        fleet = Fleet(host.vms.parent)
        member = fleet.add(host)
        member.configure("backup", changed="auto", engine="parallel")
        vm = host.make_vm("web01", mib=64, random_mib=40)
        member.worker("run")
        for percent in (2, 20):
            change(vm.disk, percent / 100)
            member.worker("run")
            newest = fleet.copies("web01")[-1]
            assert newest.sidecar is not None
            assert newest.sidecar.unread > 20 << 20
            assert not newest.sidecar.read_in_full
        expected = raw(vm.disk, tmp_path)
        made = disk_of(newest.directory / f"{newest.stamp}.ova", tmp_path)
        subprocess.run(["qemu-img", "compare", made, expected], check=True)
        place = host.vms / "restored"
        member.admin("restore", "web01", "--as", "web02", "--to", str(place))
        (imported,) = place.rglob("*.vdi")
        subprocess.run(["qemu-img", "compare", imported, expected], check=True)
        member.admin("verify", "web01")
        assert all(copy.read_in_full for copy in fleet.copies("web01"))


def test_a_vm_that_is_deleted_while_it_is_frozen_leaves_nothing(
    virtualbox_testbed: Testbed, tmp_path: Path
) -> None:
    """VirtualBox deletes it as if there were no clones, and what is left then is swept."""
    with host_on("xfs", virtualbox_testbed, tmp_path) as host:
        fleet = Fleet(tmp_path)
        member = fleet.add(host)
        member.configure("backup", changed="auto", engine="parallel")
        vm = host.make_vm("web01", mib=120, random_mib=90)
        for worker in ("vmfind", "notifier"):
            member.worker(worker)
        running = member.start("vmbackup-worker", "-v", "backup")
        with stopped(running, partial_copies(fleet), "the export begins"):
            running.kill()
        running.communicate(timeout=60)
        left = list(host.vms.rglob("*.frozen"))
        assert left != []
        host.run("unregistervm", vm.uuid, "--delete")
        assert not vm.disk.exists()
        member.worker("run", expect=None)
        member.worker("database")
        assert list(host.vms.rglob(".vmbackup")) == []
        assert fleet.states() == {"web01": "BACKUP_NECESSARY"}
