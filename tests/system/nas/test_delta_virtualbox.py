"""Only the change on the wire with a real VirtualBox.

On a real NFS 4.2 mount, and what comes of it can be imported.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.testbed.nas.traffic import sent
from tests.support.fleet import Fleet
from tests.support.proving import only_when_proving
from tests.support.virtualbox import RealHost
from tests.system.nas.conftest import Share
from tests.system.nas.test_delta_copies import back_up, scribble

pytestmark = [
    pytest.mark.nas("guest", memory_mib=3072),
    pytest.mark.virtualbox,
    # `make test` has both halves: bytes on the wire (test_delta_copies), and imports of such copies
    # (tests/contract/test_engines.py).
    only_when_proving,
]


@pytest.mark.parametrize("share", ["nfs"], indirect=True)
def test_a_delta_copy_of_a_real_vm_is_imported(
    share: Share, make_virtualbox_host: Callable[[], RealHost], tmp_path: Path
) -> None:
    host = make_virtualbox_host()
    member = Fleet(tmp_path, nas=Path(share.on("a"))).add(host)
    member.configure("backup", engine="parallel")
    vm = host.make_vm("web01", mib=40, random_mib=24)
    back_up(member)
    scribble(vm.disk, 3)
    before = sent(Path("/mnt/nfs-a"), "WRITE")[1]
    second, copy = back_up(member)
    written = sent(Path("/mnt/nfs-a"), "WRITE")[1] - before
    print(f"{second.size} bytes, {second.wire}, on the wire: {written}")
    assert second.wire is not None
    assert second.wire.copied > 0.95 * second.size
    assert written < 2**20
    ova = host.folder / "copy.ova"
    ova.write_bytes((copy.directory / f"{copy.stamp}.ova").read_bytes())
    host.run("import", ova, "--vsys=0", "--vmname=again", f"--basefolder={host.vms}")
    raws = []
    for number, name in enumerate(("web01", "again")):
        leaf = next(
            line.split('"')[3]
            for line in host.run("showvminfo", name, "--machinereadable").stdout.splitlines()
            if "-ImageUUID-0-0" in line
        )
        raws.append(host.folder / f"{number}.raw")
        host.run("clonemedium", "disk", leaf, raws[-1], "--format=RAW")
    assert raws[0].read_bytes() == raws[1].read_bytes()
