"""What the parallel engine relies on to get a VM's description.

An export to a directory fails at once where a disk's name is taken.
"""

import os
import threading
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from shared.export.description import take_description
from shared.host.processes import SubprocessRunner
from shared.virtualbox.export_words import ExportedAs
from shared.virtualbox.vboxmanage import VBoxManage
from tests.contract.exporting import medium_state
from tests.support.hosts import VirtualBoxHost

ODD = [
    "plain",
    "../../etc",
    "a/../../b",
    "/abs/x",
    "./c",
    "e//f",
    'quo"te:',
    "new\nline",
    "-dash",
    "B\u00fcro & Co",
    "x" * 86,
]


@pytest.mark.parametrize("odd", ODD)
def test_a_disk_whose_name_is_taken_ends_the_export(
    host: VirtualBoxHost, odd: str, folder: Path
) -> None:
    """What bears the name stays, and no disk is read.

    Disks are called after the VM, and slashes in its name are followed.
    """
    vm = host.make_vm(odd)
    place = folder / "1" / "2" / "3"
    place.mkdir(parents=True)
    os.makedirs(f"{place}/{vm.name}-disk001.vmdk", exist_ok=True)
    refused = host.run(
        "export",
        vm.uuid,
        "--ovf20",
        f"--output={place}/x.ovf",
        "--vsys=0",
        "--vmname=other",
        check=False,
    )
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(
        "0%...VBOX_E_IPRT_ERROR\nVBoxManage: error: Appliance write failed\n"
    )
    assert "RTVfsFsStrmPushFile failed for '" in refused.stderr
    assert "-disk001.vmdk' (VERR_ALREADY_EXISTS)\n" in refused.stderr
    assert {path.name for path in folder.rglob("*") if path.is_file()} <= {"x.ovf"}, (
        "it may forget a file with a short name"
    )
    assert medium_state(host, vm.disk) == "created"
    host.run("unregistervm", vm.uuid, "--delete")


@pytest.mark.parametrize("odd", ODD)
def test_every_vm_is_described(host: VirtualBoxHost, odd: str, folder: Path) -> None:
    vm = host.make_vm(odd)
    vboxmanage = VBoxManage(str(host.vboxmanage), SubprocessRunner(), 60)
    for rename in (None, "another: name"):
        description = take_description(
            vboxmanage,
            vm.uuid,
            vm.name,
            disks=1,
            scratch=folder / "scratch",
            cancelled=threading.Event(),
            shown=ExportedAs(rename),
        )
        system = next(
            element
            for element in ET.fromstring(description.ovf).iter()
            if element.tag.endswith("VirtualSystem")
        )
        assert [value for key, value in system.attrib.items() if key.endswith("id")] == [
            rename or vm.name
        ]
        assert list(folder.rglob("*")) == [folder / "scratch"]
    host.run("unregistervm", vm.uuid, "--delete")
