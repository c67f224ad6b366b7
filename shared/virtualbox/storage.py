"""The storage of VMs: images with their files and chains, and what settings files say of disks."""

import os
from collections.abc import Iterator, Mapping
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
    #: Emptied by VirtualBox at each start of its VM.
    auto_reset: bool = False


@dataclass(frozen=True, slots=True)
class FilledDrive:
    """A DVD or floppy drive with something in it, and where it is attached.

    `kind` is VirtualBox's word for it, `DVD` or `Floppy`, `bus` as in `AttachedDisk`. `place` is
    the path of the image, or of the drive of the host (`of_host`); empty if the file says neither.
    """

    kind: str
    controller: str
    port: str
    device: str
    bus: str
    place: str
    of_host: bool = False

    @property
    def words(self) -> str:
        """What is in it, for people."""
        drive = f"its {'CD' if self.kind == 'DVD' else 'floppy'} drive at {self.controller}"
        what = "the drive of the host" if self.of_host else "the image"
        return f"{what} in {drive} {self.port}: {self.place or 'of unknown place'}"


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


def filled_drives(machine: Element) -> Iterator[FilledDrive]:
    """The drives of a `<Machine>` as it is now that are not empty, DVD drives first."""
    for kind, registry in (("DVD", "DVDImages"), ("Floppy", "FloppyImages")):
        places = {
            uuid_of(image): image.get("location", "")
            for image in machine.iterfind(f"MediaRegistry/{registry}/Image")
        }
        for controller in controllers_of(machine):
            for device in controller.iterfind("AttachedDevice"):
                image, host = device.find("Image"), device.find("HostDrive")
                if device.get("type") != kind or (image is None and host is None):
                    continue
                yield FilledDrive(
                    kind,
                    controller.get("name", ""),
                    device.get("port", ""),
                    device.get("device", ""),
                    controller.get("type", ""),
                    places.get(uuid_of(image), "") if image is not None else _source(host),
                    of_host=image is None,
                )


def _source(host: Element | None) -> str:
    return host.get("src", "") if host is not None else ""


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
            disk.get("autoReset") in {"true", "1"},
        )
        waiting += [(child, uuid) for child in disk.iterfind("HardDisk")]
    return images


def uuid_of(element: Element, attribute: str = "uuid") -> str:
    """A UUID as VBoxManage prints it, without braces; empty if there is none."""
    return element.get(attribute, "").strip("{}").lower()


def _number(element: Element, attribute: str) -> int:
    stated = element.get(attribute, "")
    return int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 10 else -1


def files_of(image: Image) -> Iterator[str]:
    """The files that hold an image.

    A VMDK may be a small text that names others, and those are what its VM writes to.
    """
    if image.format.lower() == "iscsi":
        return
    yield image.location
    if image.format.lower() == "vmdk":
        for name in _extents(image.location):
            yield os.path.join(os.path.dirname(image.location), name)


def _extents(path: str) -> list[str]:
    if not os.path.isfile(path):  # a pipe would be waited for, for ever
        return []
    try:
        with open(path, "rb") as file:
            head = file.read(2**16)
    except OSError:
        return []
    if not head.startswith(b"# Disk DescriptorFile"):
        return []
    lines = (
        line.split('"') for line in head.decode("utf-8", errors="surrogateescape").splitlines()
    )
    return [
        parts[1] for parts in lines if len(parts) >= 3 and parts[0].startswith(("RW ", "RDONLY "))
    ]


def chain_of(uuid: str, images: Mapping[str, Image]) -> tuple[Image, ...]:
    """The images from the one that is written, of this UUID, to its base.

    An image that is in no registry, or that is its own ancestor, ends it as somebody's `parent`: if
    need be that of an empty image.
    """
    chain = [Image("", "", "", uuid)]
    seen = {""}
    while chain[-1].parent in images and chain[-1].parent not in seen:
        seen.add(chain[-1].parent)
        chain.append(images[chain[-1].parent])
    return tuple(chain[1:]) or tuple(chain)
