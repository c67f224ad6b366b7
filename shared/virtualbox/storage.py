"""The storage in VirtualBox's settings files: images, the disks that are attached, snapshots."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shared.host.xml import Element

#: The second until VirtualBox 5.2.
_CONTROLLERS: Final = (
    "Hardware/StorageControllers/StorageController",
    "StorageControllers/StorageController",
)


@dataclass(frozen=True, slots=True)
class Image:
    """An entry of a media registry.

    `parent` is the UUID of the image it is based on, empty for a base.

    `encrypted`: VirtualBox itself keeps it encrypted, and asks for its password when it is read.
    `kind` is VirtualBox's word for the type of a base, like `Normal` or `Writethrough`.
    """

    uuid: str
    location: str
    format: str
    parent: str
    encrypted: bool = False
    kind: str = ""


@dataclass(frozen=True, slots=True)
class AttachedDisk:
    """A hard disk of a VM: the UUID of the image it writes to, and where it is attached.

    `port` and `device` are -1 where the file does not say them. `bus` is the type of the
    controller in VirtualBox's words, like `AHCI` or `USB`.
    """

    image: str
    controller: str
    port: int
    device: int
    bus: str = ""


@dataclass(frozen=True, slots=True)
class VmSnapshot:
    """A snapshot of a VM; `attached` are the UUIDs of the hard disks that it keeps."""

    uuid: str
    name: str
    description: str
    attached: tuple[str, ...]


def attached_disks(machine: Element) -> Iterator[AttachedDisk]:
    """The hard disks of a `<Machine>` as it is now, or of a `<Snapshot>`, in their order."""
    for controller in controllers_of(machine):
        for device in controller.iterfind("AttachedDevice"):
            image = device.find("Image")
            if device.get("type") == "HardDisk" and image is not None:
                yield AttachedDisk(
                    uuid_of(image),
                    controller.get("name", ""),
                    _number(device, "port"),
                    _number(device, "device"),
                    controller.get("type", ""),
                )


def controllers_of(machine: Element) -> Iterator[Element]:
    """The storage controllers of a `<Machine>` as it is now, or of a `<Snapshot>`."""
    for path in _CONTROLLERS:
        yield from machine.iterfind(path)


def snapshots_of(machine: Element) -> Iterator[VmSnapshot]:
    """All snapshots of a `<Machine>`, also those that stand on others."""
    waiting = machine.findall("Snapshot")
    while waiting:
        found = waiting.pop()
        yield VmSnapshot(
            uuid_of(found),
            found.get("name", ""),
            found.findtext("Description") or "",
            tuple(disk.image for disk in attached_disks(found)),
        )
        waiting += found.findall("Snapshots/Snapshot")


def images_of(registry: Element | None) -> dict[str, Image]:
    """The hard disk images of a `<MediaRegistry>` by UUID."""
    images: dict[str, Image] = {}
    waiting = (
        [(disk, "") for disk in registry.iterfind("HardDisks/HardDisk")]
        if registry is not None
        else []
    )
    while waiting:
        disk, parent = waiting.pop()
        uuid = uuid_of(disk)
        encrypted = any(item.get("name") == "CRYPT/KeyStore" for item in disk.iterfind("Property"))
        images[uuid] = Image(
            uuid,
            disk.get("location", ""),
            disk.get("format", ""),
            parent,
            encrypted,
            disk.get("type", ""),
        )
        waiting += [(child, uuid) for child in disk.iterfind("HardDisk")]
    return images


def uuid_of(element: Element, attribute: str = "uuid") -> str:
    """A UUID as VBoxManage prints it, without braces; empty if there is none."""
    return element.get(attribute, "").strip("{}").lower()


def _number(element: Element, attribute: str) -> int:
    stated = element.get(attribute, "")
    return int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 10 else -1
