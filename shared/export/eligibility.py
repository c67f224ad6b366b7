"""Which VMs the parallel engine can export, and why not the others (`VBoxManage export` does)."""

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from uuid import UUID

from shared.export.links import touched_by_virtualbox
from shared.export.read_lock import SMALLEST_DISK
from shared.host.clock import Clock
from shared.host.errors import DiskImageError
from shared.ova.disk import Accept, Chain, Link
from shared.ova.ovf import Attachment
from shared.ova.vdi import VdiImage
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
    """A disk of the VM: where it is attached, its leaf image's UUID, and its files, leaf first.

    `links` between them were found to be in order though the parent is not what its child notes.
    """

    attachment: Attachment
    medium: str
    files: tuple[Path, ...]
    links: frozenset[Link] = frozenset()


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Whether the parallel engine can export a VM: `reason` says in words why not.

    With what would mend it, if that is known. It is empty if it can; then `disks` are what it has
    to read.
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
            raise DiskImageError("it has an encrypted disk", hint="decrypt it, if that may be")
        judge = touched_by_virtualbox(os.stat(machine.settings_file).st_mtime_ns)
        disks = tuple(
            _examined(SourceDisk(_attachment(disk), disk.image, _files(chain)), judge)
            for disk, chain in zip(attached, machine.chains, strict=True)
        )
    except OSError as error:
        return Eligibility((), f"its settings cannot be used: {error.strerror}")
    except SettingsError as error:
        return Eligibility((), f"its settings cannot be used: {error}")
    except DiskImageError as error:
        mended = f" ({error.hint})" if error.hint else ""
        return Eligibility((), error.message + mended)
    return Eligibility(disks, "")


def _attachment(disk: AttachedDisk) -> Attachment:
    """Where a disk is attached. Raises `SettingsError` if its VM's settings do not say that."""
    if not disk.controller or min(disk.port, disk.device) < 0:
        raise SettingsError(f"they do not say where the disk {disk.image} is attached")
    return Attachment(disk.controller, disk.port, disk.device)


def _examined(disk: SourceDisk, accept: Accept) -> SourceDisk:
    """The disk, with the links that are in order. Raises as `open_disk`."""
    with open_disk(disk, accept) as chain:
        return replace(disk, links=chain.links)


def open_disk(disk: SourceDisk, accept: Accept | None = None) -> Chain:
    """Opens the images of a disk; close it.

    Raises `DiskImageError` if they are damaged, are not those that VirtualBox has in mind, or if
    the disk is too small or too large. Of parents that are not what their children note those are
    accepted that `accept` names, else those whose links are known.
    """

    def known(child: VdiImage, parent: VdiImage) -> bool:
        return Link.between(child, parent) in disk.links

    with ExitStack() as stack:
        chain = stack.enter_context(Chain.open(disk.files, accept or known))
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
                f"not VDI",
                hint="VBoxManage clonemedium --format=VDI makes a VDI of it",
            )
    return tuple(Path(image.location) for image in chain)
