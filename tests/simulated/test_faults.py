"""The simulated VBoxManage fails as it is told to: other tests rely on each of these switches."""

import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.simulated import SimulatedHost, SimulatedVm
from tests.support.waiting import wait_for


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimulatedHost]:
    made = SimulatedHost(tmp_path, "alpha")
    yield made
    made.remove()


@pytest.fixture
def vm(host: SimulatedHost) -> SimulatedVm:
    return host.make_vm("web", mib=12, random_mib=10)


def export(
    host: SimulatedHost, vm: SimulatedVm, target: Path
) -> "subprocess.CompletedProcess[str]":
    return host.run("export", vm.uuid, "--ovf20", "--manifest", f"--output={target}", check=False)


def start_export(host: SimulatedHost, vm: SimulatedVm, target: Path) -> "subprocess.Popen[str]":
    """An export in the background; it has begun to write."""
    command = [host.vboxmanage, "export", vm.uuid, "--ovf20", "--manifest", f"--output={target}"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: target.exists() and target.stat().st_size > 100_000, "the export to begin")
    return process


def grows(target: Path, seconds: float = 0.4) -> bool:
    before = target.stat().st_size
    time.sleep(seconds)
    return target.stat().st_size != before


def test_an_unknown_fault_is_a_mistake_of_the_test(host: SimulatedHost, vm: SimulatedVm) -> None:
    with pytest.raises(TypeError, match="no such fault: export_secnods"):
        host.fault(export_secnods=1)
    with pytest.raises(TypeError, match="no such fault: not_ready"):
        host.fault(vm, not_ready=1)


def test_slow_export(host: SimulatedHost, vm: SimulatedVm, tmp_path: Path) -> None:
    host.fault(export_seconds=1.0)
    begun = time.monotonic()
    assert export(host, vm, tmp_path / "x.ova").returncode == 0
    assert time.monotonic() - begun >= 1.0


def test_export_at_so_many_bytes_a_second(
    host: SimulatedHost, vm: SimulatedVm, tmp_path: Path
) -> None:
    host.fault(export_bytes_per_second=10 << 20)
    begun = time.monotonic()
    assert export(host, vm, tmp_path / "x.ova").returncode == 0
    assert time.monotonic() - begun >= 1.0


def test_a_fault_of_one_vm_is_not_one_of_another(
    host: SimulatedHost, vm: SimulatedVm, tmp_path: Path
) -> None:
    other = host.make_vm("other")
    host.fault(vm, export_disk_full_at=50)
    assert export(host, vm, tmp_path / "x.ova").returncode == 1
    assert export(host, other, tmp_path / "y.ova").returncode == 0
    host.mend()
    assert export(host, vm, tmp_path / "x.ova").returncode == 0


@pytest.mark.parametrize(
    ("fault", "text"),
    [("export_disk_full_at", "VERR_DISK_FULL"), ("export_fails_at", "VERR_READ_ERROR")],
)
def test_failing_export(
    host: SimulatedHost, vm: SimulatedVm, tmp_path: Path, fault: str, text: str
) -> None:
    host.fault(**{fault: 50})
    failed = export(host, vm, tmp_path / "x.ova")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith(
        "0%...10%...20%...30%...40%...VBOX_E_FILE_ERROR\nVBoxManage: error: Appliance write "
        "failed\n"
    )
    assert text in failed.stderr
    assert not (tmp_path / "x.ova").exists()
    assert host.exports() == []


def test_hanging_export_can_be_cancelled(
    host: SimulatedHost, vm: SimulatedVm, tmp_path: Path
) -> None:
    host.fault(export_hangs_at=30)
    target = tmp_path / "x.ova"
    process = start_export(host, vm, target)
    wait_for(lambda: not grows(target), "the export to hang")
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "CANCELED\n" in stderr
    assert not target.exists()


def test_export_that_ignores_signals(host: SimulatedHost, vm: SimulatedVm, tmp_path: Path) -> None:
    host.fault(export_hangs_at=30, export_ignores_signals=True)
    process = start_export(host, vm, tmp_path / "x.ova")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.kill()
    process.communicate()
    assert (tmp_path / "x.ova").exists()
    assert [export["target"] for export in host.exports()] == [str(tmp_path / "x.ova")]
    host.lose_power()
    assert host.exports() == []


def test_vboxsvc_dies(host: SimulatedHost, vm: SimulatedVm, tmp_path: Path) -> None:
    host.fault(export_service_dies_at=50)
    failed = export(host, vm, tmp_path / "x.ova")
    assert failed.returncode == 1
    assert "NS_ERROR_ABORT" in failed.stderr
    assert (tmp_path / "x.ova").stat().st_size > 0
    assert host.exports() == []


LIES = ["truncated", "damaged", "no_manifest", "no_file", "error_on_stderr"]


@pytest.mark.parametrize("lie", LIES)
def test_lying_export(host: SimulatedHost, vm: SimulatedVm, tmp_path: Path, lie: str) -> None:
    assert export(host, vm, tmp_path / "good.ova").returncode == 0
    host.fault(export_lie=lie)
    done = export(host, vm, tmp_path / "x.ova")
    assert (done.returncode, done.stdout) == (0, "Successfully exported 1 machine(s).\n")
    assert ("VBoxManage: error: " in done.stderr) == (lie == "error_on_stderr")
    good, target = (tmp_path / "good.ova").stat().st_size, tmp_path / "x.ova"
    assert target.exists() == (lie != "no_file")
    if lie == "truncated":
        assert target.stat().st_size == pytest.approx(good / 2, abs=1024)
    if lie == "no_manifest":
        with tarfile.open(target) as archive:
            assert [name[-4:] for name in archive.getnames()] == [".ovf", "vmdk"]
    if lie == "damaged":
        assert target.stat().st_size == good


def test_the_user_starts_the_vm_just_before_the_export(
    host: SimulatedHost, vm: SimulatedVm, tmp_path: Path
) -> None:
    host.fault(vm, starts_before_export=True)
    failed = export(host, vm, tmp_path / "x.ova")
    assert failed.returncode == 1
    assert "is locked for writing by another task" in failed.stderr
    assert vm.info("VMState") == "running"


def test_hanging_host(host: SimulatedHost) -> None:
    host.fault(hang_seconds=30)
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            [host.vboxmanage, "list", "vms"], timeout=0.5, check=False, capture_output=True
        )


def test_warning_lines(host: SimulatedHost, vm: SimulatedVm) -> None:
    host.fault(warning_lines=True)
    listed = host.run("list", "vms").stdout
    assert listed.startswith("WARNING: The character device /dev/vboxdrv does not exist.\n")
    assert listed.endswith(f'\n"web" {{{vm.uuid}}}\n')


def test_errors_that_pass(host: SimulatedHost, vm: SimulatedVm) -> None:
    host.fault(not_ready=2, refused=1)
    texts = [
        host.run("showvminfo", vm.uuid, "--machinereadable", check=False).stderr for _ in range(4)
    ]
    assert "Failed to create the VirtualBox object!" in texts[0]
    assert "The object is not ready" in texts[1]
    assert "The object is not ready" in texts[2]
    assert texts[3] == ""


def test_shown_state(host: SimulatedHost, vm: SimulatedVm) -> None:
    host.fault(vm, shown_state="livesnapshotting")
    assert vm.info("VMState") == "livesnapshotting"


def test_a_thousand_vms_are_cheap(host: SimulatedHost) -> None:
    before = sum(os.times()[:4])
    vms = host.make_vms(1000)
    assert len(host.run("list", "vms").stdout.splitlines()) == len({vm.uuid for vm in vms}) == 1000
    assert sum(os.times()[:4]) - before < 20, "seconds of the processor, whatever else it does"
