"""What of a VM is not in its copy is named, whatever part of it that is."""

from dataclasses import replace
from pathlib import Path

from shared.host.configuration import VmPolicy
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import MachineSettings, parse_machine
from shared.virtualbox.storage import FilledDrive, Image
from worker.backup.left_out import data_left_out, parts_left_out

UUID = "11111111-1111-4111-8111-111111111111"
BASE = Image("a", "/vms/a.vdi", "VDI", "", kind="Normal")
CD = FilledDrive("DVD", "USB", "0", "0", "USB", "/iso/tools.iso")
LIVE, KEEP = VmPolicy(running="live"), VmPolicy()


def settings(**fields: object) -> MachineSettings:
    plain = f'<VirtualBox><Machine uuid="{{{UUID}}}" name="web01"/></VirtualBox>'
    return replace(parse_machine(plain.encode()), **fields)  # type: ignore[arg-type]


def machine(*chain: Image, running: bool = False, **fields: object) -> Machine:
    return Machine(
        UUID, "web01", "/vms/web01.vbox", running, "", settings(**fields), (chain,) if chain else ()
    )


def test_nothing_of_a_plain_vm_is_left_out() -> None:
    plain = machine(BASE)
    assert (data_left_out(plain, KEEP), parts_left_out(plain)) == ((), ())


def test_images_in_drives_and_devices_of_the_host() -> None:
    floppy = FilledDrive("Floppy", "Floppy", "0", "0", "I82078", "/iso/boot.img")
    host = FilledDrive("DVD", "IDE", "1", "0", "PIIX4", "/dev/sr0", of_host=True)
    found = parts_left_out(machine(BASE, drives=(CD, host, floppy), has_pci_devices=True))
    assert found == (
        "the image in its CD drive at USB 0: /iso/tools.iso",
        "the drive of the host in its CD drive at IDE 1: /dev/sr0",
        "the image in its floppy drive at Floppy 0: /iso/boot.img",
        "the PCI devices of the host",
    )


def test_what_of_disks_does_not_come_back(tmp_path: Path) -> None:
    raw = tmp_path / "raw.vmdk"
    raw.write_text('# Disk DescriptorFile\nRW 2048 FLAT "/dev/sdz" 0\n', encoding="utf-8")
    shared = replace(BASE, kind="Shareable")
    (said,) = parts_left_out(machine(shared))
    assert said == "that its disk /vms/a.vdi is shareable: it comes back as an ordinary one"
    reset = Image("b", "/vms/b.vdi", "VDI", "a", auto_reset=True)
    (said,) = parts_left_out(machine(reset, replace(BASE, kind="Immutable")))
    assert said.startswith("what its disk /vms/a.vdi goes back to when the VM starts")
    (said,) = parts_left_out(machine(replace(BASE, location=str(raw), format="VMDK")))
    assert said == f"that its disk {raw} is /dev/sdz itself: it comes back as an image"


def test_memory_that_cannot_be_kept_is_said_to_be_missing_only_where_it_would_be_kept() -> None:
    runs = machine(BASE, running=True, drives=(CD,))
    word = "its memory, as the image in its CD drive at USB 0 had to be taken out of a clone"
    assert data_left_out(runs, LIVE) == (word,)
    assert data_left_out(replace(runs, running=False), LIVE) == ()
    assert data_left_out(runs, VmPolicy(running="live", saved="warn")) == ()
    elsewhere = replace(CD, bus="AHCI")
    assert data_left_out(machine(BASE, running=True, drives=(elsewhere,)), LIVE) == ()
