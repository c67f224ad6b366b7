"""What VirtualBox's own description of a VM (.ovf) says of its disks.

Which file belongs to which attachment. Pure.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

from shared.host.errors import VBoxManageError

_OVF: Final = "{http://schemas.dmtf.org/ovf/envelope/2}"
_FILE: Final = re.compile(rb'(<File [^<>]*ovf:href=")([^"]*)(")')
_FILE_KIND: Final = re.compile(r"(-disk\d+)?\.\w+$")
_VIRTUALBOX: Final = "{http://www.virtualbox.org/ovf/machine}"


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """Where a disk is attached."""

    controller: str
    port: int
    device: int

    @property
    def label(self) -> str:
        """In one word, as VirtualBox writes it: `SATA-0-0`."""
        return f"{self.controller}-{self.port}-{self.device}"


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A disk that the description announces.

    Its file in the OVA, its size in bytes, and where it is attached.
    """

    name: str
    size: int
    slot: Slot


def disk_files(ovf: bytes) -> tuple[DiskFile, ...]:
    """The disks in the order of their files.

    Raises `VBoxManageError` if the description is not as VirtualBox 7 writes it.

    An attachment in the vbox:Machine element names an image UUID, which is made up for the export;
    the DiskSection gives it a file id, the References give that a file name.
    """
    try:
        envelope = ET.fromstring(ovf)  # noqa: S314 - VirtualBox wrote it a moment ago
        slots = dict(_attachments(envelope))
        disks = {disk.attrib[_OVF + "fileRef"]: disk for disk in envelope.iter(_OVF + "Disk")}
        files = tuple(
            DiskFile(
                file.attrib[_OVF + "href"],
                int(disk.attrib[_OVF + "capacity"]),
                slots.pop(disk.attrib[_VIRTUALBOX + "uuid"]),
            )
            for file in envelope.iter(_OVF + "File")
            if (disk := disks.pop(file.attrib[_OVF + "id"], None)) is not None
        )
        if slots or disks:
            raise ValueError(f"no files for {sorted(slots.values())} {sorted(disks)}")
    except (ET.ParseError, KeyError, ValueError) as error:
        raise VBoxManageError(
            f"VirtualBox describes the VM in a way that is not understood: {error!r}"
        ) from None
    return files


def rename_files(ovf: bytes, name: str) -> tuple[bytes, dict[str, str]]:
    """The description with plain file names made from `name`, and which file is called how.

    `name-disk001.vmdk`, `name.nvram`.

    VirtualBox calls the files after the VM. A name with a colon or parentheses then cuts its own
    manifest short, and in a manifest that is complete makes its import refuse the copy
    (VERR_INVALID_NAME).
    """
    names: dict[str, str] = {}

    def plain(match: re.Match[bytes]) -> bytes:
        old = html.unescape(match[2].decode("utf-8", "surrogateescape"))
        kind = _FILE_KIND.search(old)
        names[old] = name + (kind[0] if kind else f"-file{len(names) + 1:03}")
        return match[1] + names[old].encode() + match[3]

    renamed = _FILE.sub(plain, ovf)
    if len(set(names.values())) != len(names):
        raise VBoxManageError(
            f"VirtualBox gives files names that are too much alike: {sorted(names)}"
        )
    return renamed, names


def _attachments(envelope: ET.Element) -> Iterator[tuple[str, Slot]]:
    for machine in envelope.iter(_VIRTUALBOX + "Machine"):
        for controller in machine.iter(_OVF + "StorageController"):
            for device in controller.iterfind(f"{_OVF}AttachedDevice[@type='HardDisk']"):
                for image in device.iterfind(_OVF + "Image"):
                    slot = Slot(
                        controller.attrib["name"],
                        int(device.attrib["port"]),
                        int(device.attrib["device"]),
                    )
                    yield image.attrib["uuid"].strip("{}"), slot
