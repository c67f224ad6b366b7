"""VMs of the real VirtualBox that stand still for a moment while their disks are cloned."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared.copies import sidecar_files
from shared.copies.sidecar import Sidecar
from tests.support.file_systems import mounted
from tests.support.fleet import Fleet, Member
from tests.support.packages import require
from tests.support.virtualbox import RealVm, Testbed
from tests.support.waiting import wait_for
from tests.system.test_frozen_virtualbox import HostElsewhere, disk_of, raw
from tests.system.test_running_virtualbox import pristine

pytestmark = pytest.mark.virtualbox

#: A VBoxManage that does something else once: before or after a VM is paused or resumed, or before
#: it is asked whether the VM was paused throughout, when all is cloned. Others wait meanwhile.
MEDDLER = """#!/bin/sh
at() {{
  if [ "$(cat '{folder}/point' 2>/dev/null)" = "$1" ]; then
    mv '{folder}/point' '{folder}/acting'
    GUARD=$PPID sh '{folder}/action'
    rm '{folder}/acting'
  fi
}}
while [ -e '{folder}/acting' ]; do sleep 0.05; done
[ "$1" = controlvm ] && at "before $3"
[ "$1" = showvminfo ] && [ -s {vms}/*/vmbackup-*/paused ] && at cloned
'{real}' "$@"
status=$?
[ "$1" = controlvm ] && at "after $3"
exit $status
"""


class MeddledHost(HostElsewhere):
    """A host whose workers can be met at a step of theirs."""

    def __init__(self, testbed: Testbed, place: Path, folder: Path) -> None:
        super().__init__(testbed, place)
        self.meddling = folder / "meddling"
        self.meddling.mkdir()
        self.script = self.meddling / "VBoxManage"
        self.script.write_text(
            MEDDLER.format(folder=self.meddling, vms=self.vms, real=self.vboxmanage)
        )
        self.script.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "VMBACKUP_VBOXMANAGE": str(self.script)}

    def meddle(self, point: str, action: str) -> None:
        """Does that in the next backup, at that point. `$WORKER` and `$GUARD` are numbers."""
        pid = self.meddling / "worker"
        pid.unlink(missing_ok=True)
        wait = f"while [ ! -s '{pid}' ]; do sleep 0.05; done; WORKER=$(cat '{pid}')"
        (self.meddling / "action").write_text(f"{wait}\n{action}\n")
        (self.meddling / "point").write_text(point)

    def backup(self, member: Member) -> subprocess.Popen[str]:
        """Starts one, and tells whoever meddles with it."""
        worker = member.start("vmbackup-worker", "-v", "backup", "--vm", "server", "--now")
        pid = self.meddling / "worker.new"
        pid.write_text(str(worker.pid))
        pid.rename(self.meddling / "worker")
        return worker

    @property
    def met(self) -> bool:
        """Whether the point was reached."""
        return not (self.meddling / "point").exists()


@contextlib.contextmanager
def pausing(testbed: Testbed, folder: Path, *, shared: bool = False) -> Iterator[Member]:
    """A real host whose VMs are on an XFS, and are paused for their backups.

    `shared`: the NAS is there, too, so that it shares blocks between copies.
    """
    require("qemu-img", "qemu-utils")
    with mounted("xfs", folder) as place:
        host = MeddledHost(testbed, place / "vms", folder)
        try:
            host.share(place)
            member = Fleet(place if shared else folder).add(host)
            member.configure("backup", running="pause", running_hours=0, pause_seconds=60)
            yield member
        finally:
            host.remove()


@pytest.fixture
def member(virtualbox_testbed: Testbed, tmp_path: Path) -> Iterator[Member]:
    """One whose NAS is elsewhere."""
    with pausing(virtualbox_testbed, tmp_path) as member:
        yield member


def described(member: Member, name: str) -> Sidecar:
    """The newest copy."""
    copy = member.fleet.copies(name)[-1]
    return sidecar_files.read(copy.directory, copy.stamp)


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
    assert member.fleet.states() == {"server": "CLEAN"}
    assert vm.info("VMState") == "running"
    assert vm.process().pid == process
    pristine(member, vm)
    made = described(member, "server")
    assert (made.engine, made.not_paused) == ("parallel", "")
    assert 0 < made.paused_seconds < 60
    after = vm.beats()
    assert before - 1 <= restored_counter(member, vm) <= after + 1


def guards(vm: RealVm) -> list[int]:
    """The processes that resume the VM."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if vm.uuid in words and any(word.endswith("pause_guard.py") for word in words):
                found.append(process.pid)
    return found


def recover(member: Member) -> None:
    """Ticks until nothing is left to be done for the VM."""
    wait_for(
        lambda: (
            member.worker("database", expect=None).status == 0
            and member.fleet.record("server").power is None
            and member.fleet.record("server").claim is None
        ),
        "recovery",
        90,
    )


def test_a_worker_that_is_killed_at_any_step_leaves_a_guest_that_runs(member: Member) -> None:
    """Without a tick; and nothing is left after one. So it is if what resumes it is killed, too."""
    host = member.host
    assert isinstance(host, MeddledHost)
    vm = host.make_vm("server")
    vm.start()
    member.worker("vmfind")
    for point in ("before pause", "after pause", "before resume", "after resume"):
        host.meddle(point, "kill -9 $WORKER")
        host.backup(member).communicate(timeout=60)
        assert host.met, point
        wait_for(lambda: not guards(vm), f"the guest to be let go, killed {point}", 40)
        assert vm.info("VMState") == "running", point
        assert member.fleet.record("server").power is not None, point
        recover(member)
        pristine(member, vm)
    host.meddle("cloned", "kill -9 $WORKER $GUARD")
    host.backup(member).communicate(timeout=60)
    assert vm.info("VMState") == "paused"
    recover(member)
    counted = vm.beats()
    wait_for(lambda: vm.beats() > counted, "the guest to count")
    pristine(member, vm)


def test_what_its_user_does_meanwhile_stays_and_the_clones_do_not_count(member: Member) -> None:
    host = member.host
    assert isinstance(host, MeddledHost)
    vm = host.make_vm("server")
    control = f"'{host.vboxmanage}' controlvm {vm.uuid}"
    vm.start()
    member.worker("vmfind")
    late = f"while [ -e {host.vms}/*/vmbackup-*/paused ]; do sleep 0.1; done; kill -CONT $WORKER"
    for point, action, state, seconds, why in (
        ("cloned", f"{control} resume; {control} pause", "paused", 60, "resumed or switched off"),
        ("after pause", f"kill -STOP $WORKER; ({late}) >/dev/null 2>&1 &", "running", 1, "within"),
        (
            "cloned",
            f"{control} resume; {control} poweroff",
            "poweroff",
            60,
            "resumed or switched off",
        ),
    ):
        member.configure("backup", pause_seconds=seconds)
        if vm.info("VMState") == "paused":
            host.run("controlvm", vm.uuid, "resume")
        host.meddle(point, action)
        output = host.backup(member).communicate(timeout=120)[0]
        assert host.met, action
        assert vm.info("VMState") == state, output
        assert why in described(member, "server").not_paused, output
        assert "copied live instead" in output
        pristine(member, vm)
    assert "made live" in member.admin("status").stdout
    assert vm.counter() > 0


def test_a_vm_that_its_user_had_paused_stays_so_with_its_snapshots(member: Member) -> None:
    vm = member.host.make_vm("server")
    vm.start()
    member.host.run("snapshot", vm.uuid, "take", "mine", "--live")
    counted = vm.beats()
    wait_for(lambda: vm.beats() > counted, "the guest to count")
    member.host.run("controlvm", vm.uuid, "pause")
    moment = vm.info("VMStateChangeTime")
    member.worker("run")
    assert member.fleet.states() == {"server": "CLEAN"}
    made = described(member, "server")
    assert (made.engine, made.engine_reason, made.not_paused) == ("parallel", "", "")
    assert (vm.info("VMState"), vm.info("VMStateChangeTime")) == ("paused", moment)
    assert "vmbackup" not in member.host.run("snapshot", vm.uuid, "list").stdout
    assert list(member.host.vms.rglob("vmbackup-*")) == []
    assert restored_counter(member, vm) >= counted


def test_a_disk_without_reflinks_makes_it_a_live_copy_which_is_told(
    member: Member, tmp_path: Path
) -> None:
    vm = member.host.make_vm("server")
    with mounted("ext4", tmp_path) as place:
        member.host.share(place)
        disk = place / "second.vdi"
        member.host.run("createmedium", "disk", f"--filename={disk}", "--size=16")
        member.host.run(
            *("storageattach", vm.uuid, "--storagectl=SATA", "--port=1", "--device=0"),
            *("--type=hdd", f"--medium={disk}"),
        )
        vm.start()
        member.worker("vmfind")
        planned = member.worker("backup", "--dry-run", "--vm", "server", "--now").stdout
        assert "live, from a snapshot (not paused: " in planned
        assert "makes no reflink clones" in planned
        member.worker("backup", "--vm", "server", "--now")
        assert member.fleet.states() == {"server": "CLEAN"}
        assert "makes no reflink clones" in described(member, "server").not_paused
        status = member.admin("status").stdout
        assert "instead of pausing it" in " ".join(status.split())
        vm.stop()
        member.host.run("unregistervm", vm.uuid)


def test_of_the_next_copies_only_what_the_guest_changed_is_read(
    virtualbox_testbed: Testbed, tmp_path: Path
) -> None:
    """The clones of one copy serve the next one, also if its user has paused the VM meanwhile."""
    with pausing(virtualbox_testbed, tmp_path, shared=True) as member:
        member.configure("backup", changed="auto", engine="parallel")
        vm = member.host.make_vm("server", mib=64, random_mib=40)
        vm.start()
        member.worker("run")
        assert described(member, "server").frozen
        assert len(list(member.host.vms.rglob("*.frozen"))) == 1

        counted = vm.beats()
        wait_for(lambda: vm.beats() > counted, "the guest to count")
        member.host.run("controlvm", vm.uuid, "pause")
        expected = raw(vm.disk, tmp_path)
        (tmp_path / "oracle.vdi").unlink()
        member.worker("backup", "--vm", "server", "--now")
        made = described(member, "server")
        assert (made.engine, made.not_paused, made.taken_from != ()) == ("parallel", "", True)
        assert made.unread > 35 << 20
        disk = disk_of(member.fleet.copies("server")[-1].directory / f"{made.stamp}.ova", tmp_path)
        subprocess.run(["qemu-img", "compare", disk, expected], check=True)

        member.host.run("controlvm", vm.uuid, "resume")
        counted = vm.beats()
        wait_for(lambda: vm.beats() > counted, "the guest to go on")
        counted = vm.beats()
        member.worker("backup", "--vm", "server", "--now")
        assert described(member, "server").unread > 35 << 20
        pristine(member, vm)
        member.admin("verify", "server")
        assert all(copy.read_in_full for copy in member.fleet.copies("server"))
        assert restored_counter(member, vm) >= counted - 1
        member.configure("backup", changed="off")
        member.worker("run")
        assert list(member.host.vms.rglob("*.frozen")) == []
