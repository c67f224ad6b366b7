"""Which VMs the parallel engine can export, and why not the others (`VBoxManage export` does)."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from shared.export.read_lock import SMALLEST_DISK
from shared.host.clock import Clock
from shared.host.errors import DiskImageError
from shared.ova.disk import Chain
from shared.ova.ovf import Attachment
from shared.ova.vmdk import LARGEST_BYTES
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import SettingsError, parse_machine, read_file
from shared.virtualbox.storage import AttachedDisk, Image

#: A property that VirtualBox gives to encrypted images.
_ENCRYPTED: Final = b"CRYPT/KeyStore"
#: What compression may add to data that cannot be compressed, tables included.
_WORST_GROWTH: Final = 1.02


@dataclass(frozen=True, slots=True)
class SourceDisk:
    """A disk of the VM: where it is attached, its leaf image's UUID, and its files, leaf first."""

    attachment: Attachment
    medium: str
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Whether the parallel engine can export a VM: `reason` says in words why not.

    It is empty if it can; then `disks` are what it has to read.
    """

    disks: tuple[SourceDisk, ...]
    reason: str


def check_eligibility(machine: Machine, clock: Clock) -> Eligibility:
    """Whether a VM, at best a stopped one, can be exported: by the inventory and its disks' files.

    Changes nothing, takes no lock. An export looks again once it holds the locks.
    """
    if machine.reason:
        return Eligibility((), machine.reason)
    try:
        settings = read_file(machine.settings_file, clock.sleep)
        attached = parse_machine(settings).disks
        if [disk.image for disk in attached] != [chain[0].uuid for chain in machine.chains]:
            raise DiskImageError("its disks were changed a moment ago")
        if _ENCRYPTED in settings:
            raise DiskImageError("it has an encrypted disk")
        disks = tuple(
            SourceDisk(_attachment(disk), disk.image, _files(chain))
            for disk, chain in zip(attached, machine.chains, strict=True)
        )
        for disk in disks:
            open_disk(disk).close()
    except SettingsError as error:
        return Eligibility((), f"its settings cannot be used: {error}")
    except DiskImageError as error:
        return Eligibility((), error.message)
    return Eligibility(disks, "")


def _attachment(disk: AttachedDisk) -> Attachment:
    """Where a disk is attached. Raises `SettingsError` if its VM's settings do not say that."""
    if not disk.controller or min(disk.port, disk.device) < 0:
        raise SettingsError(f"they do not say where the disk {disk.image} is attached")
    return Attachment(disk.controller, disk.port, disk.device)


def open_disk(disk: SourceDisk) -> Chain:
    """Opens the images of a disk; close it.

    Raises `DiskImageError` if they are damaged, are not those that VirtualBox has in mind, or if
    the disk is too small or too large.
    """
    with ExitStack() as stack:
        chain = stack.enter_context(Chain.open(disk.files))
        found = chain.images[0].header.identifier
        if found != UUID(disk.medium):
            raise DiskImageError(
                f"{disk.files[0]}: its UUID is {found}, VirtualBox knows it as {disk.medium}"
            )
        if chain.size < SMALLEST_DISK:
            raise DiskImageError(
                f"{disk.files[0]}: a disk of less than {SMALLEST_DISK >> 20} MiB, whose lock "
                f"cannot be proven"
            )
        if chain.allocated_bytes() * _WORST_GROWTH > LARGEST_BYTES:
            raise DiskImageError(f"{disk.files[0]}: its data may not fit into the 2 TiB of a VMDK")
        stack.pop_all()
    return chain


def _files(chain: tuple[Image, ...]) -> tuple[Path, ...]:
    for image in chain:
        if image.format.upper() != "VDI":
            raise DiskImageError(
                f"{image.location or image.uuid}: its format is {image.format or 'unknown'}, "
                f"not VDI"
            )
    return tuple(Path(image.location) for image in chain)
