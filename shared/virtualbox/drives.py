"""Where disks and removable media are attached, by a settings file."""

from collections.abc import Iterator
from dataclasses import dataclass

from shared.host.xml import Element
from shared.virtualbox.storage import (
    AttachedDisk,
    attached_disks,
    controllers_of,
    filled_drives,
    images_of,
)


@dataclass(frozen=True, slots=True)
class DriveSlot:
    """Where a medium is attached."""

    controller: str
    port: str
    device: str


@dataclass(frozen=True, slots=True)
class Drive:
    """An image that was in a drive: `dvddrive` or `fdd`."""

    slot: DriveSlot
    kind: str
    path: str


def reset_slots(original: Element) -> set[DriveSlot]:
    """Where the disks are whose images VirtualBox empties when the VM starts."""
    images = images_of(original.find("MediaRegistry"))
    reset = {uuid for uuid, image in images.items() if image.auto_reset}
    return {slot_of_disk(disk) for disk in attached_disks(original) if disk.image in reset}


def image_drives(original: Element) -> Iterator[Drive]:
    """The images that were in drives; not the drives of the host itself."""
    for drive in filled_drives(original):
        if not drive.of_host:
            slot = DriveSlot(drive.controller, drive.port, drive.device)
            yield Drive(slot, "dvddrive" if drive.kind == "DVD" else "fdd", drive.place)


def is_filled(machine: Element, slot: DriveSlot) -> bool:
    """Whether there is an image in the drive at this slot."""
    return any(
        slot_of(controller, device) == slot and device.find("Image") is not None
        for kind in ("DVD", "Floppy")
        for controller, device in devices(machine, kind)
    )


def devices(machine: Element, kind: str) -> Iterator[tuple[Element, Element]]:
    """The devices of a kind (`DVD`, `Floppy`, `HardDisk`), each with its controller."""
    for controller in controllers_of(machine):
        for device in controller.iterfind("AttachedDevice"):
            if device.get("type") == kind:
                yield controller, device


def slot_of_disk(disk: AttachedDisk) -> DriveSlot:
    """Where a disk is attached."""
    return DriveSlot(disk.controller, str(disk.port), str(disk.device))


def slot_of(controller: Element, device: Element) -> DriveSlot:
    """Where a device is attached."""
    return DriveSlot(controller.get("name", ""), device.get("port", ""), device.get("device", ""))
