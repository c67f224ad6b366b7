"""VMs that never stop.

Saved, shut down or copied live on real VirtualBox, and brought back whatever happens to the worker.
"""

import os
import signal
import subprocess
import tarfile

import pytest

from tests.support.fleet import Member
from tests.support.virtualbox import RealVm
from tests.support.waiting import wait_for

pytestmark = pytest.mark.virtualbox


def pristine(member: Member, vm: RealVm) -> None:
    """Nothing of a backup is left in VirtualBox.

    No snapshot, no clone, no differencing image, no saved state.
    """
    host = member.host
    assert host.run("list", "vms").stdout.count("{") == len({vm.uuid})
    assert (
        "does not have any snapshots" in host.run("snapshot", vm.uuid, "list", check=False).stdout
    )
    left = [
        path for path in host.vms.rglob("*") if path.suffix in {".sav", ".vdi"} and path != vm.disk
    ]  # type: ignore[attr-defined]
    left += list(vm.settings.parent.glob("vmbackup-*"))
    assert left == []
    assert member.fleet.litter() == []
    assert member.fleet.record(vm.name).power is None


@pytest.mark.parametrize("method", ["savestate", "shutdown", "live"])
def test_a_running_vm_is_backed_up_and_runs_on(member: Member, method: str) -> None:
    vm = member.host.make_vm("server")
    member.configure("backup", running=method)
    vm.start()
    process = vm.process().pid
    member.worker("run")
    assert member.fleet.states() == {"server": "CLEAN"}
    assert vm.info("VMState") == "running"
    assert (vm.process().pid == process) == (method == "live"), "the live method never stops it"
    pristine(member, vm)  # type: ignore[arg-type]
    (copy,) = member.fleet.copies("server")
    with tarfile.open(copy.directory / f"{copy.stamp}.ova") as archive:
        description = archive.extractfile(archive.getmembers()[0]).read()  # type: ignore[union-attr]
    assert b'<VirtualSystem ovf:id="server">' in description
    member.host.run("import", copy.directory / f"{copy.stamp}.ova", "--dry-run")

    member.worker("notifier")
    assert member.fleet.states() == {"server": "RUNNING"}, "it is not due again yet"
    vm.stop()
    member.worker("run")
    assert len(member.fleet.copies("server")) == 2


def test_a_guest_that_ignores_the_power_button_is_left_running(member: Member) -> None:
    vm = member.host.make_vm("stubborn", delay=None)
    member.configure("backup", running="shutdown", shutdown_seconds=3)
    vm.start()
    member.worker("run", expect=4)
    assert vm.info("VMState") == "running"
    member.worker("database")
    assert member.fleet.record("stubborn").power is None

    member.configure("backup", pull_plug=True)
    member.worker("run")
    assert member.fleet.states() == {"stubborn": "BACKUP_NECESSARY"}, "it is left alone for a while"
    member.worker("backup", "--vm", "stubborn")
    assert (member.fleet.states(), vm.info("VMState")) == ({"stubborn": "CLEAN"}, "running")


def test_a_stopped_vm_that_is_copied_live_can_be_started_meanwhile(member: Member) -> None:
    vm = member.host.make_vm("desktop", mib=300, random_mib=200)
    member.configure("backup", live_when_stopped=True)
    member.worker("vmfind")
    member.worker("notifier")
    worker = member.start("vmbackup-worker", "-v", "backup")
    wait_for(
        lambda: list(member.fleet.nas.glob("desktop/.*.partial.ova")) != [], "the export to begin"
    )
    vm.start()
    output = worker.communicate(timeout=120)[0]
    assert worker.returncode == 0, output
    assert vm.info("VMState") == "running"
    pristine(member, vm)  # type: ignore[arg-type]
    vm.stop()
    member.worker("notifier")
    assert member.fleet.states() == {"desktop": "BACKUP_NECESSARY"}, "it was used during the export"

    member.worker("backup")
    member.worker("run")
    assert member.fleet.states() == {"desktop": "CLEAN"}
    assert len(member.fleet.copies("desktop")) == 2, "merging our own snapshot is not use"


def test_a_vm_and_a_snapshot_with_the_names_of_the_first_release_survive_a_live_backup(
    member: Member,
) -> None:
    """Its live backup under claim 1 deleted such a VM with its disk."""
    theirs, vm = member.host.make_vm("vmbackup-1"), member.host.make_vm("server")
    member.host.run("snapshot", vm.uuid, "take", "vmbackup-1")
    member.configure("backup", running="live")
    vm.start()
    before = theirs.disk.read_bytes()
    member.worker("run")
    assert member.fleet.states() == {"server": "CLEAN", "vmbackup-1": "CLEAN"}
    assert [copy.claim for copy in member.fleet.copies("server")] == [1]
    assert theirs.disk.read_bytes() == before
    assert theirs.uuid in member.host.run("list", "vms").stdout
    listed = member.host.run("snapshot", vm.uuid, "list", "--machinereadable").stdout
    assert [line for line in listed.splitlines() if line.startswith("SnapshotName")] == [
        'SnapshotName="vmbackup-1"'
    ]
    assert list(vm.settings.parent.glob("vmbackup-*")) == []


@pytest.mark.parametrize("method", ["savestate", "shutdown", "live"])
def test_a_worker_killed_during_the_export_has_its_work_undone_by_the_next_tick(
    member: Member, method: str
) -> None:
    vm = member.host.make_vm("server", mib=300, random_mib=250)
    member.configure("backup", running=method, retry_seconds=60)
    vm.start()
    member.worker("vmfind")
    member.worker("notifier")
    member.worker("notifier")
    worker = member.start("vmbackup-worker", "-v", "backup")
    wait_for(
        lambda: list(member.fleet.nas.glob("server/.*.partial.ova")) != [], "the export to begin"
    )
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate(timeout=30)
    assert member.fleet.record("server").power is not None

    wait_for(
        lambda: (
            member.worker("database", expect=None).status == 0
            and member.fleet.record("server").power is None
        ),
        "recovery",
        90,
    )
    assert vm.info("VMState") == "running"
    pristine(member, vm)  # type: ignore[arg-type]
    assert member.fleet.states() == {"server": "BACKUP_NECESSARY"}


def test_a_users_own_snapshots_are_not_touched(member: Member) -> None:
    vm = member.host.make_vm("server")
    member.host.run("snapshot", vm.uuid, "take", "before the upgrade")
    member.configure("backup", running="live")
    vm.start()
    member.worker("run")
    listed = subprocess.run(
        [member.host.vboxmanage, "snapshot", vm.uuid, "list", "--machinereadable"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert 'SnapshotName="before the upgrade"' in listed
    assert "vmbackup" not in listed
