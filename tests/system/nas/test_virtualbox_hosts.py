"""The whole system.

Real VirtualBox hosts that back up their VMs over real NFS and SMB mounts, each with caches of its
own. `make prove` has both kinds of mount, the quick run one of them, drawn anew by each run.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.support.drawing import TOLD, drawn
from tests.support.fleet import Fleet
from tests.support.virtualbox import RealHost
from tests.system.nas.conftest import Share

#: VirtualBox in a User-Mode Linux took from two to seven minutes here, one tick up to four of them.
pytestmark = [
    pytest.mark.virtualbox,
    pytest.mark.nas("guest", memory_mib=3072),
    pytest.mark.timeout(900),
]

KINDS: Final = ("nfs", "smb")


@pytest.mark.parametrize("share", drawn(KINDS), indirect=True)
def test_two_hosts_back_up_at_once_and_one_imports_what_the_other_copied(
    share: Share, make_virtualbox_host: Callable[[], RealHost], tmp_path: Path
) -> None:
    print(f"{share.on('c')} ({TOLD})")
    fleet = Fleet(tmp_path, nas=Path(share.on("c")), lease_seconds=20)
    first, second = (fleet.add(make_virtualbox_host(), Path(share.on(host))) for host in ("a", "b"))
    web = first.host.make_vm("web01")
    second.host.make_vm("db01")
    runs = first.host.make_vm("runs")
    runs.start()

    ticks = [member.start("vmbackup-worker", "-v", "run") for member in (first, second)]
    outputs = [tick.communicate()[0] for tick in ticks]
    os.listdir(share.on("c"))
    assert fleet.states() == {"web01": "CLEAN", "db01": "CLEAN", "runs": "RUNNING"}, outputs
    assert fleet.litter() == []

    web.start()
    web.stop()
    counted = web.counter()
    first.worker("notifier")
    first.worker("backup", expect=4)
    assert counted > 0
    assert fleet.states() == {"web01": "CLEAN", "db01": "CLEAN", "runs": "RUNNING"}
    assert len(fleet.copies("web01")) == 2

    copy = fleet.copies("web01")[-1]
    ova = Path(share.on("b", "web01", f"{copy.stamp}.ova"))
    second.host.run(
        "import", ova, "--vsys", "0", "--vmname", "web01-again", "--basefolder", second.host.vms
    )
    assert "web01-again" in second.host.run("list", "vms").stdout
