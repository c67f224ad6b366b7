"""While an export runs.

What it looks like from outside, what is refused, and how it ends when somebody ends it.
"""

import signal
from collections.abc import Callable

import pytest

from tests.contract.conftest import make_slow_vm
from tests.contract.exporting import Export, check_manifest, medium_state, size
from tests.support.hosts import VirtualBoxHost, VirtualMachine
from tests.support.waiting import wait_for

Begin = Callable[..., Export]

pytestmark = pytest.mark.usefixtures("hang_up_heeded")


def test_only_the_locked_medium_tells_of_it(
    host: VirtualBoxHost, slow_vm: VirtualMachine, begin_export: Begin
) -> None:
    export = begin_export(slow_vm)
    assert export.seen(lambda: medium_state(host, slow_vm.disk)) == "locked read"
    assert export.seen(lambda: slow_vm.info("VMState")) == "poweroff"
    assert export.seen(lambda: slow_vm.info("SessionName")) == ""
    assert slow_vm.uuid not in export.seen(lambda: host.run("list", "runningvms").stdout)


def test_the_vm_cannot_be_started(
    host: VirtualBoxHost, slow_vm: VirtualMachine, begin_export: Begin
) -> None:
    export = begin_export(slow_vm)
    refused = host.run("startvm", slow_vm.uuid, "--type=headless", check=False)
    assert refused.returncode == 1
    text = (
        "Locking of attached media failed. A possible reason is that one of the media is "
        "attached to a running VM"
    )
    assert refused.stderr.startswith(f"VBoxManage: error: {text}\n")
    assert slow_vm.info("VMState") == "poweroff"
    assert export.process.poll() is None


def test_settings_can_be_changed(
    host: VirtualBoxHost, slow_vm: VirtualMachine, begin_export: Begin
) -> None:
    """The reason why the fingerprint is taken again afterwards."""
    export = begin_export(slow_vm)
    before = slow_vm.settings.stat().st_mtime_ns
    export.seen(lambda: host.run("modifyvm", slow_vm.uuid, "--description=meanwhile"))
    assert slow_vm.settings.stat().st_mtime_ns != before
    export.seen(lambda: host.run("setextradata", slow_vm.uuid, "key", "value"))
    assert host.run("getextradata", slow_vm.uuid, "key").stdout == "Value: value\n"


def test_a_snapshot_can_be_taken_but_not_deleted(
    host: VirtualBoxHost, slow_vm: VirtualMachine, begin_export: Begin
) -> None:
    export = begin_export(slow_vm)
    host.run("snapshot", slow_vm.uuid, "take", "meanwhile")
    refused = host.run("snapshot", slow_vm.uuid, "delete", "meanwhile", check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith(
        "0%...VBOX_E_INVALID_OBJECT_STATE\nVBoxManage: error: Snapshot operation failed\n"
    )
    assert f"Medium '{slow_vm.disk}' is locked for reading by another task\n" in refused.stderr
    export.cancel()
    host.run("snapshot", slow_vm.uuid, "delete", "meanwhile")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_cancel_it_and_remove_the_file(
    host: VirtualBoxHost, slow_vm: VirtualMachine, begin_export: Begin, number: signal.Signals
) -> None:
    export = begin_export(slow_vm, f"{number.name}.ova")
    status, stdout, stderr = export.end(number)
    assert (status, stdout) == (1, "")
    progress, _, rest = stderr.partition("CANCELED\n")
    assert progress.startswith("0%...")
    assert rest.startswith("VBoxManage: error: Appliance write failed\n")
    assert (
        f"Could not create the exported medium '{slow_vm.name}-disk001.vmdk' (VERR_CANCELLED)\n"
        in rest
    )
    assert not export.target.exists()
    assert medium_state(host, slow_vm.disk) == "created"


def test_killing_vboxmanage_leaves_orphans_that_go_on_to_the_end(
    host: VirtualBoxHost, slow_vm: VirtualMachine, begin_export: Begin
) -> None:
    """Two at a time, for exports of one VM run beside each other."""
    exports = {
        number: begin_export(slow_vm, f"{number.name}.ova")
        for number in (signal.SIGKILL, signal.SIGHUP)
    }
    for number, export in exports.items():
        status, stdout, _ = export.end(number)
        assert (status, stdout) == (-number, "")
    assert medium_state(host, slow_vm.disk) == "locked read"
    sizes = [size(export.target) for export in exports.values()]
    wait_for(lambda: medium_state(host, slow_vm.disk) == "created")
    assert all(
        size(export.target) > before for export, before in zip(exports.values(), sizes, strict=True)
    )
    for export in exports.values():
        check_manifest(export.target)


def test_a_power_loss_leaves_a_partial_file(
    host: VirtualBoxHost, slow_vm: VirtualMachine, begin_export: Begin
) -> None:
    export = begin_export(slow_vm)
    export.process.send_signal(signal.SIGKILL)
    host.lose_power()
    assert export.target.stat().st_size > 0
    assert medium_state(host, slow_vm.disk) == "created"
    with pytest.raises(StopIteration):
        check_manifest(export.target)


def test_unregistering_with_delete_half_works(
    host: VirtualBoxHost, begin_export: Begin, name: str
) -> None:
    vm = make_slow_vm(host, name)
    settings = vm.settings
    begin_export(vm)
    refused = host.run("unregistervm", vm.uuid, "--delete", check=False)
    assert refused.returncode == 1
    assert (
        "VBOX_E_INVALID_OBJECT_STATE\nVBoxManage: error: Machine delete failed\n" in refused.stderr
    )
    assert f"Medium '{vm.disk}' is locked for reading by another task\n" in refused.stderr
    assert vm.uuid not in host.run("list", "vms").stdout
    assert settings.exists()
    assert vm.disk.exists()
