"""A copy of more than 8 GiB, where a size no longer fits into the octal digits of a tar header.

Takes three to ten minutes and 30 GB of disk.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.ova.check import check_ova
from tests.contract.engine_vms import Bench, qemu, write_blocks
from tests.contract.test_engines import qemu_img  # noqa: F401 - a fixture
from tests.support.proving import only_when_proving
from tests.support.virtualbox import RealHost
from tests.support.waiting import ended

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.virtualbox,
    only_when_proving,
]

GIB = 2**30
BLOCKS = 8 * 1024 + 300


def test_a_copy_of_more_than_8_gib_is_imported(
    qemu_img: None,  # noqa: F811
    make_virtualbox_host: Callable[[], RealHost],
) -> None:
    """Incompressible blocks all over a disk of 20 GiB."""
    bench = Bench(make_virtualbox_host())
    host = bench.host
    uuid = bench.create("large")
    disk = host.vms / "large.vdi"
    host.run("createmedium", "disk", "--filename", disk, "--size", str(20 * 1024))
    host.run(
        "storageattach",
        uuid,
        "--storagectl=SATA",
        "--port=0",
        "--device=0",
        "--type=hdd",
        f"--medium={disk}",
    )
    for start in range(0, BLOCKS, 100):
        count = min(100, BLOCKS - start)
        write_blocks(
            disk, {2 * number: os.urandom(2**20) for number in range(start, start + count)}
        )
    copy = host.folder / "large.ova"
    ended(bench.parallel().start(bench.machine(uuid), copy), seconds=1200).result()
    assert max(member.size for member in check_ova(host.folder, copy.name).members) > 8 * GIB
    words = [copy, "--vsys=0", "--vmname=restored", f"--basefolder={host.vms}"]
    host.run("import", *words, timeout=1800)
    copy.unlink()
    restored = next(vm.uuid for vm in bench.vboxmanage.list_vms() if vm.name == "restored")
    (image,) = [Path(chain[0].location) for chain in bench.machine(restored).chains]
    qemu("compare", disk, image, seconds=1800)
