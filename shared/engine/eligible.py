"""Which VMs the parallel engine can export, and why not the others. Those get `VBoxManage export`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from shared.engine.chain import Chain
from shared.engine.holder import SMALLEST_DISK
from shared.engine.ovf import Slot
from shared.engine.vmdk import LARGEST_BYTES
from shared.errors import DiskImageError, VBoxManageError
from shared.virtualbox.settings import SettingsError, read_file
from shared.virtualbox.vboxmanage import VBoxManage

_NAMESPACE: Final = "{http://www.virtualbox.org/}"
_FIELD: Final = re.compile(r"^(Parent UUID|Location|Storage format|Encryption|State): +(.*)$", re.MULTILINE)
#: A chain of more images than this is a loop.
_LONGEST_CHAIN: Final = 300
#: What compression may add to data that cannot be compressed, tables included.
_WORST_GROWTH: Final = 1.02


@dataclass(frozen=True, slots=True)
class SourceDisk:
    """A disk of the VM: where it is attached, the UUID of its leaf image, and its files, leaf first."""

    slot: Slot
    medium: str
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Assessment:
    """`reason` says in words why the parallel engine cannot export the VM; empty if it can, then `disks` are what it has to read."""

    disks: tuple[SourceDisk, ...]
    reason: str


def assess(vboxmanage: VBoxManage, machine: str) -> Assessment:
    """Looks at the disks of a stopped VM (its UUID), as VirtualBox lists them and as their files are.

    Changes nothing and takes no lock: an export looks again once it holds the locks. Raises `VBoxManageError` if VirtualBox fails.
    """
    info = vboxmanage.info(machine)
    try:
        attached = attachments(read_file(info.settings_file))
    except SettingsError as error:
        return Assessment((), f"the settings of the VM cannot be read: {error}")
    if unknown := {uuid for _, uuid in attached} - {medium.uuid for medium in info.media}:
        return Assessment((), f"VirtualBox does not know the disk {min(unknown)} of the settings file")
    try:
        disks = tuple(SourceDisk(slot, uuid, _files(vboxmanage, uuid)) for slot, uuid in attached)
        for disk in disks:
            _check(disk)
    except DiskImageError as error:
        return Assessment((), error.message)
    return Assessment(disks, "")


def attachments(settings: bytes) -> tuple[tuple[Slot, str], ...]:
    """The hard disks of a .vbox file as they are now: where they are attached, and the UUID of the leaf image. Raises `SettingsError`."""
    try:
        root = ET.fromstring(settings)  # noqa: S314 - this host's own settings
        path = f"{_NAMESPACE}Machine/{_NAMESPACE}Hardware/{_NAMESPACE}StorageControllers/{_NAMESPACE}StorageController"
        return tuple(
            (Slot(controller.attrib["name"], int(device.attrib["port"]), int(device.attrib["device"])), image.attrib["uuid"].strip("{}"))
            for controller in root.iterfind(path)
            for device in controller.iterfind(f"{_NAMESPACE}AttachedDevice[@type='HardDisk']")
            for image in device.iterfind(_NAMESPACE + "Image")
        )
    except (ET.ParseError, KeyError, ValueError) as error:
        raise SettingsError(f"they are damaged: {error!r}") from None


def _files(vboxmanage: VBoxManage, medium: str) -> tuple[Path, ...]:
    """The files of a disk, leaf first. Raises `DiskImageError` if one is of a kind that is not read."""
    files: list[Path] = []
    while medium != "base":
        fields = dict(_FIELD.findall(vboxmanage.read("showmediuminfo", "disk", medium)))
        if not {"Parent UUID", "Location", "Storage format"} <= fields.keys():
            raise VBoxManageError(f"VBoxManage showmediuminfo says nothing of the disk {medium}")
        path = fields["Location"]
        if fields["Storage format"].upper() != "VDI":
            raise DiskImageError(f"{path}: its format is {fields['Storage format']}, not VDI")
        if fields.get("Encryption", "disabled") != "disabled":
            raise DiskImageError(f"{path}: it is encrypted")
        files.append(Path(path))
        if len(files) > _LONGEST_CHAIN:
            raise DiskImageError(f"{path}: a chain of more than {_LONGEST_CHAIN} images")
        medium = fields["Parent UUID"]
    return tuple(files)


def _check(disk: SourceDisk) -> None:
    """Opens the images. Raises `DiskImageError` if they are damaged, do not belong together, or their size is out of range."""
    with Chain.open(disk.files) as chain:
        if chain.size < SMALLEST_DISK:
            raise DiskImageError(f"{disk.files[0]}: a disk of less than {SMALLEST_DISK >> 20} MiB, whose lock cannot be proven")
        if chain.allocated_bytes() * _WORST_GROWTH > LARGEST_BYTES:
            raise DiskImageError(f"{disk.files[0]}: its data may not fit into the 2 TiB of a VMDK")
