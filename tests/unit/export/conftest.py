"""A stand-in for VirtualBox with one VM."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from shared.host.processes import SubprocessRunner
from shared.virtualbox.inventory import Machine
from shared.virtualbox.storage import Image
from shared.virtualbox.vboxmanage import VBoxManage
from tests.support.disk_files import Vdi, content

OVF = """<?xml version="1.0"?>
<Envelope ovf:version="2.0" xmlns="http://schemas.dmtf.org/ovf/envelope/2"
 xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/2"
 xmlns:vbox="http://www.virtualbox.org/ovf/machine">
<References>{files}</References><DiskSection>{disks}</DiskSection>
<VirtualSystem ovf:id="vm"><vbox:Machine>
<Hardware><StorageControllers>{controllers}</StorageControllers></Hardware></vbox:Machine>
</VirtualSystem></Envelope>
"""
VBOX = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/"><Machine uuid="{{{uuid}}}" name="vm">
<Hardware><StorageControllers>{controllers}</StorageControllers></Hardware></Machine></VirtualBox>
"""


def controllers(uuids: list[str]) -> str:
    """Each disk at a port of its own, plus an empty drive."""
    devices = "".join(
        (
            f'<AttachedDevice type="HardDisk" port="{2 * number}" device="0"><Image '
            f'uuid="{{{uuid}}}"/></AttachedDevice>'
        )
        for number, uuid in enumerate(uuids)
    )
    return (
        f'<StorageController name="SATA">{devices}<AttachedDevice type="DVD" port="9" '
        f'device="0"/></StorageController>'
    )


def ovf(sizes: list[int], *, nvram: bool = False) -> bytes:
    """A description as VirtualBox writes it, with a UUID of its own for each disk.

    `nvram`: of an EFI machine.
    """
    uuids = [str(uuid4()) for _ in sizes]
    disks = "".join(
        f'<Disk ovf:capacity="{size}" ovf:fileRef="file{number}" vbox:uuid="{uuid}"/>'
        for number, (size, uuid) in enumerate(zip(sizes, uuids, strict=True))
    )
    files = "".join(
        f'<File ovf:id="file{number}" ovf:href="vm-disk{number + 1:03}.vmdk"/>'
        for number in range(len(sizes))
    )
    files += '<File ovf:id="n" ovf:href="vm.nvram"/>' if nvram else ""
    return OVF.format(files=files, disks=disks, controllers=controllers(uuids)).encode()


@dataclass
class FakeVirtualBox:
    """VirtualBox with one VM `vm`."""

    folder: Path
    behaviour: dict[str, object] = field(default_factory=dict)
    uuid: str = field(default_factory=lambda: str(uuid4()))
    chains: list[list[Vdi]] = field(default_factory=list)

    def __post_init__(self) -> None:
        program = self.folder / "VBoxManage"
        program.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" '
            f'"{Path(__file__).with_name("fake_vboxmanage.py")}" "{self.folder}" "$@"\n'
        )
        program.chmod(0o755)
        self.vboxmanage = VBoxManage(str(program), SubprocessRunner(), 20)
        self.behave()

    def behave(self, **behaviour: object) -> None:
        """From now on, see `fake_vboxmanage`."""
        self.behaviour = behaviour
        (self.folder / "behaviour.json").write_text(json.dumps(behaviour))

    def add_disk(self, *images: Vdi) -> None:
        """Attaches a disk, leaf first; its content is what VirtualBox reads from it."""
        self.chains.append(list(images))
        for image in images:
            image.write(self.folder / f"{image.identifier}.vdi")
        (self.folder / f"{images[0].identifier}.raw").write_bytes(content(list(images)))

    @property
    def machine(self) -> Machine:
        """The VM, after writing what VirtualBox would say of it."""
        leaves = [str(chain[0].identifier) for chain in self.chains]
        (self.folder / "vm.vbox").write_text(
            VBOX.format(uuid=self.uuid, controllers=controllers(leaves))
        )
        efi = (self.folder / "vm.nvram").exists()
        (self.folder / "vm.ovf").write_bytes(
            ovf([chain[0].size for chain in self.chains], nvram=efi)
        )
        chains = tuple(
            tuple(
                Image(
                    str(image.identifier), str(self.folder / f"{image.identifier}.vdi"), "VDI", ""
                )
                for image in chain
            )
            for chain in self.chains
        )
        return Machine(self.uuid, "vm", str(self.folder / "vm.vbox"), chains=chains)

    def commands(self) -> list[str]:
        """What VBoxManage was called for."""
        log = self.folder / "log"
        return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []

    def worker(self, code: str) -> "subprocess.Popen[bytes]":
        """Another process in which `code` runs with this VirtualBox as `vboxmanage`.

        Then it sleeps, to be killed.
        """
        head = (
            "import sys, threading, time\n"
            "from shared.host.processes import SubprocessRunner\n"
            "from shared.virtualbox.vboxmanage import VBoxManage\n"
            f"vboxmanage = VBoxManage({self.vboxmanage.program!r}, SubprocessRunner(), 20)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", head + code + "\nprint('ready', flush=True)\ntime.sleep(30)"],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.stdout.close()
        return process

    def processes(self, word: str = "") -> list[psutil.Process]:
        """What still runs of it, with that word in its command line."""
        mine = {str(self.folder / "VBoxManage"), str(self.folder)}
        return [
            process
            for process in psutil.process_iter()
            if mine & {*(words := _words(process))} and (not word or word in words)
        ]


def _words(process: psutil.Process) -> list[str]:
    try:
        return (
            process.cmdline()
            if process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid()
            else []
        )
    except psutil.Error:
        return []


@pytest.fixture
def virtualbox(tmp_path: Path) -> Iterator[FakeVirtualBox]:
    """Ends with a check that nothing of it still runs, and that no thread of the engine does."""
    folder = tmp_path / "virtualbox"
    folder.mkdir()
    fake = FakeVirtualBox(folder)
    yield fake
    assert fake.processes() == []
    assert [
        thread.name for thread in threading.enumerate() if thread.name.startswith("engine")
    ] == []
