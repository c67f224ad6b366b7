"""What the product makes of a host: the same of a simulated one as of a real one."""

import os
import time
from pathlib import Path

import pytest

from shared.host.processes import SubprocessRunner
from shared.virtualbox.inventory import take_inventory
from shared.virtualbox.vboxmanage import VBoxManage
from tests.contract.exporting import export
from tests.support.hosts import VirtualBoxHost, VirtualMachine
from tests.support.simulated import SimulatedHost
from tests.support.virtualbox import RealHost


@pytest.fixture
def vboxmanage(host: VirtualBoxHost) -> VBoxManage:
    return VBoxManage(str(host.vboxmanage), SubprocessRunner(), 60)


def test_inventory(host: VirtualBoxHost, vboxmanage: VBoxManage, vm: VirtualMachine) -> None:
    odd = host.make_vm('in "the" inventory\nü')
    host.run("snapshot", vm.uuid, "take", "tag")
    odd.start()
    machines = take_inventory(vboxmanage, host.home, time.sleep)
    machine, running = machines[vm.uuid], machines[odd.uuid]
    assert (machine.name, machine.running, machine.accessible) == (vm.name, False, True)
    assert (running.name, running.running, running.accessible) == (odd.name, True, True)
    assert [[Path(image.location).parent.name for image in chain] for chain in machine.chains] == [
        ["Snapshots", "vms"]
    ]
    assert [image.location for image in running.images] == [str(odd.disk)]
    odd.stop()
    assert vboxmanage.info(odd.uuid).stopped


@pytest.mark.virtualbox
def test_the_real_virtualbox_can_use_what_the_simulated_one_writes(
    virtualbox_host: RealHost,
) -> None:
    """Its settings and its disks, snapshots included."""
    simulated = SimulatedHost(virtualbox_host.folder, "simulated")
    vm = simulated.make_vm('simu"lated', random_mib=2)
    simulated.run("snapshot", vm.uuid, "take", "tag")
    vm.start()
    vm.stop()
    assert export(simulated, vm, virtualbox_host.folder / "x.ova").returncode == 0
    virtualbox_host.run("registervm", vm.settings)
    info = virtualbox_host.run("showvminfo", vm.uuid, "--machinereadable").stdout
    assert f'\nUUID="{vm.uuid}"\n' in info
    assert f'\n"SATA-0-0"="{vm.info("SATA-0-0")}"\n' in info
    assert f'\nCurrentSnapshotUUID="{vm.info("CurrentSnapshotUUID")}"\n' in info
    disk = virtualbox_host.run("showmediuminfo", "disk", vm.info("SATA-0-0")).stdout
    assert "State:          created\n" in disk
    sector = virtualbox_host.folder / "sector"
    virtualbox_host.run(
        "mediumio",
        f"--disk={vm.info('SATA-0-0')}",
        "cat",
        f"--offset={63 * 512}",
        "--size=8",
        f"--output={sector}",
    )
    assert int.from_bytes(sector.read_bytes()[4:], "little") == vm.counter() > 0
    assert (
        virtualbox_host.run(
            "export", vm.uuid, f"--output={virtualbox_host.folder}/real.ova"
        ).returncode
        == 0
    )
    assert os.path.getsize(virtualbox_host.folder / "real.ova") > 2 << 20
    virtualbox_host.run("snapshot", vm.uuid, "delete", "tag")
