"""Makes the VM of a cell on a real VirtualBox host."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tests.kinds.axes import Cell
from tests.support.virtualbox import RealHost, RealVm

#: Bytes of the subject.
SIZE = 8 << 20
_CONTROLLERS = {
    "ide": ("ide", "PIIX4"),
    "scsi": ("scsi", "LSILogic"),
    "sas": ("sas", "LSILogicSAS"),
    "nvme": ("pcie", "NVMe"),
    "virtio-scsi": ("virtio-scsi", "VirtIO"),
    "usb": ("usb", "USB"),
}


@dataclass(frozen=True)
class Made:
    """The VM of a cell, and the bytes that its subject has."""

    cell: Cell
    vm: RealVm
    content: bytes

    @property
    def place(self) -> str:
        """Controller, port and device of its subject."""
        kind = self.cell.controller.split("+")[0]
        return "SATA-1-0" if kind == "sata" else f"{kind}-0-0"

    @property
    def name(self) -> str:
        return self.vm.name


def build(host: RealHost, cell: Cell, number: int) -> Made:
    """The VM, in the state that its backup will find. Its name begins with its number."""
    name = f"{number:03}-{cell.name}"
    vm = host.make_vm(f"{number:03}-original" if cell.linked else name)
    content = os.urandom(1 << 20) + bytes(3 << 20) + os.urandom(SIZE - (4 << 20))
    _attach_subject(vm, cell, content, number)
    words = [f"--description={cell.description}"] if cell.description else []
    words += [f"--groups={cell.group}"] if cell.group else []
    words += ["--firmware=efi"] if cell.firmware == "efi" else []
    words += ["--usb-ohci=on"] if cell.controller == "usb" or cell.medium == "usb iso" else []
    if cell.serial:
        words += ["--uart1", "0x3F8", "4", f"--uart-mode1={cell.serial}"]
        words += [str(host.vms / f"{number}.line")]
    words += [f"--teleporter-port={42000 + number}"] if cell.teleporter else []
    words += ["--teleporter=on", "--teleporter-address=127.0.0.1"] if cell.teleporter else []
    if words:
        host.run("modifyvm", vm.uuid, *words)
    if cell.medium:
        _attach_iso(vm, number, "usb" if cell.medium == "usb iso" else "SATA")
    if cell.linked:
        vm = _linked_clone(vm, name)
    for snapshot in range(cell.snapshots):
        host.run("snapshot", vm.uuid, "take", f"s{snapshot}")
    _bring_to(vm, cell.state)
    if cell.state in ("disk gone", "encrypted"):
        _spoil(vm, cell.state, host.vms / f"{number}.{cell.format.lower()}")
    return Made(cell, vm, content)


def _linked_clone(vm: RealVm, name: str) -> RealVm:
    """A linked clone of a VM, which stays."""
    host = vm.host
    host.run("snapshot", vm.uuid, "take", "base")
    words = ("--mode=machine", "--options=Link,KeepAllMACs", "--snapshot=base", "--register")
    made = str(uuid4())
    host.run(
        "clonevm", vm.uuid, *words, f"--name={name}", f"--uuid={made}", f"--basefolder={host.vms}"
    )
    return RealVm(host, made, name)


def _spoil(vm: RealVm, state: str, disk: Path) -> None:
    """The disk of the subject is not there any more, or has a password."""
    if state == "disk gone":
        disk.unlink()
        return
    password = disk.with_suffix(".password")
    password.write_text("secret", encoding="utf-8")
    words = ("--cipher=AES-XTS256-PLAIN64", "--newpasswordid=id1", f"--newpassword={password}")
    vm.host.run("encryptmedium", disk, *words)


def _attach_subject(vm: RealVm, cell: Cell, content: bytes, number: int) -> None:
    host = vm.host
    raw, disk = host.vms / f"{number}.raw", host.vms / f"{number}.{cell.format.lower()}"
    raw.write_bytes(content)
    variant = "Fixed" if cell.kind == "shareable" else "Standard"
    words = (f"--format={cell.format}", f"--variant={variant}")
    host.run("convertfromraw", raw, disk, *words)
    raw.unlink()
    kinds = cell.controller.split("+")
    for kind in kinds:
        if kind != "sata":
            add, controller = _CONTROLLERS[kind]
            words = (f"--name={kind}", f"--add={add}", f"--controller={controller}")
            host.run("storagectl", vm.uuid, *words)
    if len(kinds) > 1:
        other = host.vms / f"{number}-other.vdi"
        host.run("createmedium", "disk", f"--filename={other}", "--size=8")
        _attach(vm, kinds[1], other)
    typed = (f"--mtype={cell.kind}",) if cell.kind not in ("normal", "multiattach") else ()
    _attach(vm, kinds[0], disk, *typed)
    if cell.kind == "multiattach":  # a disk gets this type only when a VM knows it and lets it go
        _attach(vm, kinds[0], "none")
        host.run("modifymedium", "disk", disk, f"--type={cell.kind}")
        _attach(vm, kinds[0], disk)


def _attach(vm: RealVm, kind: str, medium: Path | str, *more: str) -> None:
    name, port = ("SATA", 1) if kind == "sata" else (kind, 0)
    place = (f"--storagectl={name}", f"--port={port}", "--device=0", "--type=hdd")
    vm.host.run("storageattach", vm.uuid, *place, f"--medium={medium}", *more)


def _attach_iso(vm: RealVm, number: int, controller: str) -> None:
    image = vm.host.vms / f"{number}.iso"
    image.write_bytes(
        bytes(32768) + b"\x01CD001\x01" + bytes(2041) + b"\xffCD001\x01" + bytes(2041)
    )
    listed = vm.host.run("showvminfo", vm.uuid, "--machinereadable").stdout
    if controller == "usb" and '="usb"' not in listed:
        vm.host.run("storagectl", vm.uuid, "--name=usb", "--add=usb", "--controller=USB")
    place = (f"--storagectl={controller}", "--port=2", "--device=0", "--type=dvddrive")
    vm.host.run("storageattach", vm.uuid, *place, f"--medium={image}")


def _bring_to(vm: RealVm, state: str) -> None:
    if state in ("poweroff", "disk gone", "encrypted"):
        return
    # whether the guest boots, from whichever disk the BIOS takes first, does not matter
    vm.host.run("startvm", vm.uuid, "--type=headless")
    vm.wait_for_state("running")
    if state in ("saved", "memory gone"):
        vm.host.run("controlvm", vm.uuid, "savestate")
        vm.wait_for_state("saved")
        if state == "memory gone":
            file = re.search(r' stateFile="([^"]+)"', vm.settings.read_text(encoding="utf-8"))
            assert file
            (vm.settings.parent / file[1]).unlink()
    elif state == "aborted":
        vm.kill()
    elif state == "paused":
        vm.host.run("controlvm", vm.uuid, "pause")
