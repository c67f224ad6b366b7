"""How the production code sees the VMs of a host of the test bed, be it real or simulated."""

import time
from collections.abc import Mapping
from pathlib import Path

from shared.host.processes import SubprocessRunner
from shared.virtualbox import settings
from shared.virtualbox.fingerprint import Fingerprint, fingerprint_of
from shared.virtualbox.inventory import Machine, take_inventory
from shared.virtualbox.vboxmanage import VBoxManage
from tests.support.hosts import VirtualBoxHost, VirtualMachine


def vboxmanage_of(host: VirtualBoxHost) -> VBoxManage:
    """VBoxManage as workers of this host run it."""
    return VBoxManage(str(host.vboxmanage), SubprocessRunner(), 60, host.environment)


def look(host: VirtualBoxHost) -> Mapping[str, Machine]:
    """Its VMs by UUID, as they are now."""
    return take_inventory(vboxmanage_of(host), settings.home(Path(), host.environment), time.sleep)


def look_at(host: VirtualBoxHost, vm: VirtualMachine) -> Machine:
    """One of its VMs as it is now."""
    return look(host)[vm.uuid]


def fingerprint(host: VirtualBoxHost, vm: VirtualMachine) -> Fingerprint:
    """What one of its VMs is now."""
    return fingerprint_of(look_at(host, vm))
