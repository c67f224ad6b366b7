"""Exports in the background by the real VirtualBox: how they end, and what they leave behind."""

import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.export.exporter import RunningExport, VBoxManageExporter
from shared.virtualbox.export_checks import DiskUse, disk_use
from shared.virtualbox.export_errors import (
    ExportAbandonedError,
    ExportCanceledError,
    ExportError,
    ExportTargetError,
    VmRunsError,
)
from tests.support.looks import look_at, vboxmanage_of
from tests.support.virtualbox import RealHost, RealVm
from tests.support.waiting import wait_for

pytestmark = pytest.mark.virtualbox

#: Random data, MiB, whose export takes more than a second: time to do something to it meanwhile.
SLOW = 70


def start(vm: RealVm, target: Path | None = None) -> RunningExport:
    machine = look_at(vm.host, vm)
    return VBoxManageExporter(vboxmanage_of(vm.host)).start(machine, target or target_of(vm))


def start_and_wait_for_data(vm: RealVm) -> RunningExport:
    export = start(vm)
    wait_for(lambda: export.size() > 2**20 or export.poll(), "the export to write")
    assert not export.poll()
    return export


def target_of(vm: RealVm) -> Path:
    return vm.host.vms / ".copy.partial.ova"


def ended(export: RunningExport) -> RunningExport:
    wait_for(export.poll, "the export to end")
    return export


def use(vm: RealVm) -> DiskUse:
    return disk_use(vboxmanage_of(vm.host), look_at(vm.host, vm))


def test_export_that_succeeds(virtualbox_host: RealHost) -> None:
    vm = virtualbox_host.make_vm("web01")
    export = start(vm)
    assert export.identity is not None
    ended(export).result()
    assert export.progress() == 100
    assert export.size() == target_of(vm).stat().st_size
    with tarfile.open(target_of(vm)) as copy:
        names = copy.getnames()
        manifest = copy.extractfile(names[-1])
        assert manifest is not None
        assert manifest.read().startswith(b"SHA256")
    assert [Path(name).suffix for name in names] == [".ovf", ".vmdk", ".mf"]


def test_progress_and_size_grow(virtualbox_host: RealHost) -> None:
    vm = virtualbox_host.make_vm("web01", mib=SLOW + 2, random_mib=SLOW)
    export = start_and_wait_for_data(vm)
    seen = export.size()
    assert use(vm) is DiskUse.READ
    wait_for(lambda: export.size() > seen and export.progress() > 0, "the export to grow")
    ended(export).result()
    assert use(vm) is DiskUse.FREE


def test_cancelled_export_is_gone_at_once(virtualbox_host: RealHost) -> None:
    vm = virtualbox_host.make_vm("web01", mib=SLOW + 2, random_mib=SLOW)
    export = start_and_wait_for_data(vm)
    assert export.cancel(timeout_seconds=20)
    with pytest.raises(ExportCanceledError):
        export.result()
    assert not target_of(vm).exists()
    assert use(vm) is DiskUse.FREE
    vm.start()


def test_export_whose_vboxmanage_was_killed_goes_on_and_is_recognised(
    virtualbox_host: RealHost,
) -> None:
    vm = virtualbox_host.make_vm("web01", mib=SLOW + 2, random_mib=SLOW)
    export = start_and_wait_for_data(vm)
    assert export.identity is not None
    os.kill(export.identity.pid, signal.SIGKILL)
    with pytest.raises(ExportAbandonedError):
        ended(export).result()
    assert use(vm) is DiskUse.READ, "asked first: the export ends by itself"
    assert vm.info("VMState") == "poweroff"
    assert (
        "Locking of attached media failed"
        in virtualbox_host.run("startvm", vm.uuid, "--type=headless", check=False).stderr
    )
    wait_for(lambda: use(vm) is DiskUse.FREE, "VirtualBox to let go of the VM", seconds=60)
    with tarfile.open(target_of(vm)) as copy:
        assert Path(copy.getnames()[-1]).suffix == ".mf"


def test_end_of_vboxsvc_is_told(virtualbox_host: RealHost) -> None:
    vm = virtualbox_host.make_vm("web01", mib=SLOW + 2, random_mib=SLOW)
    export = start_and_wait_for_data(vm)
    virtualbox_host.processes("VBoxSVC")[0].kill()
    with pytest.raises(ExportError, match="VBoxSVC ended"):
        ended(export).result()


def test_running_vm_is_refused_and_told_as_running(virtualbox_host: RealHost) -> None:
    vm = virtualbox_host.make_vm("web01")
    vm.start()
    assert use(vm) is DiskUse.WRITTEN
    with pytest.raises(VmRunsError):
        ended(start(vm)).result()
    virtualbox_host.run("snapshot", vm.uuid, "take", "live", "--live")
    with pytest.raises(VmRunsError):
        ended(start(vm)).result()
    assert not target_of(vm).exists()


def test_targets_that_cannot_be(virtualbox_host: RealHost) -> None:
    vm = virtualbox_host.make_vm("web01")
    taken = target_of(vm)
    taken.write_text("somebody else's")
    with pytest.raises(ExportTargetError, match="exists"):
        ended(start(vm)).result()
    assert taken.read_text() == "somebody else's"
    with pytest.raises(ExportTargetError, match="does not find"):
        ended(start(vm, virtualbox_host.vms / "unmounted" / "x.ova")).result()


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system needs root")
def test_full_target_is_told_as_full(virtualbox_host: RealHost, small_nas: Path) -> None:
    vm = virtualbox_host.make_vm("web01", mib=8, random_mib=4)
    virtualbox_host.share(small_nas)
    with pytest.raises(ExportTargetError, match="full"):
        ended(start(vm, small_nas / "x.ova")).result()
    assert list(small_nas.iterdir()) == []


@pytest.fixture
def small_nas(tmp_path: Path) -> Iterator[Path]:
    """A directory with room for two MiB."""
    folder = tmp_path / "nas"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_broken_vms_are_told_apart(virtualbox_host: RealHost) -> None:
    host = virtualbox_host
    missing, damaged, encrypted = (
        host.make_vm(name, mib=2) for name in ("missing", "damaged", "encrypted")
    )
    missing.disk.unlink()
    damaged.disk.write_bytes(b"x" * 2**20)
    (host.vms / "password").write_text("secret")
    options = [
        f"--newpassword={host.vms / 'password'}",
        "--newpasswordid=id1",
        "--cipher=AES-XTS256-PLAIN64",
    ]
    host.run("encryptmedium", encrypted.disk, *options)
    for vm, message in (
        (missing, "disk file is missing"),
        (damaged, "disk file is damaged"),
        (encrypted, "encrypted"),
    ):
        with pytest.raises(ExportError, match=message) as caught:
            ended(start(vm)).result()
        assert caught.value.hint
        assert not target_of(vm).exists()
