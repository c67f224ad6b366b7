"""The description of a VM in an `.ova` (.ovf): which files it refers to, which disk each one is.

Pure.
"""

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from shared.host.errors import CopyError, VBoxManageError
from shared.host.xml import Element, XmlError, parse_xml, scan_xml

#: It is longer in no copy of a VM, and is read into memory.
OVF_LIMIT: Final = 16 << 20

_FILE: Final = re.compile(rb'(<File [^<>]*ovf:href=")([^"]*)(")')
_FILE_KIND: Final = re.compile(r"(-disk\d+)?\.\w+$")


@dataclass(frozen=True, slots=True, order=True)
class Attachment:
    """Where a disk is attached."""

    controller: str
    port: int
    device: int

    @property
    def label(self) -> str:
        """In one word, as VirtualBox writes it: `SATA-0-0`."""
        return f"{self.controller}-{self.port}-{self.device}"


@dataclass(frozen=True, slots=True)
class DescribedDisk:
    """A disk in the description: its file in the OVA, its size in bytes, where it is attached."""

    name: str
    size: int
    attachment: Attachment


def references(ovf: bytes) -> frozenset[str]:
    """The files that an `.ovf` refers to.

    Raises `CopyError` if it is not well-formed, no `.ovf`, or declares entities.
    """
    found: set[str] = set()
    roots: list[str] = []

    def start(name: str, attributes: Mapping[str, str]) -> None:
        if not roots:
            roots.append(name)
        if name == "File" and "href" in attributes:
            found.add(attributes["href"])

    try:
        scan_xml(ovf, start, limit=OVF_LIMIT)
    except XmlError as error:
        raise CopyError(f"the .ovf {error}") from None
    if roots != ["Envelope"]:
        raise CopyError("the .ovf is no description of a VM")
    return frozenset(found)


def disk_files(ovf: bytes) -> tuple[DescribedDisk, ...]:
    """The disks of the VM, in the order of their files.

    Raises `VBoxManageError` if the description is not as VirtualBox 7 writes it. An attachment in
    the vbox:Machine element names an image UUID, which is made up for the export; the DiskSection
    gives it a file id, the References give that a file name.
    """
    try:
        envelope = parse_xml(ovf, limit=OVF_LIMIT)
        attachments = dict(_attachments(envelope))
        disks = {disk.attrib["fileRef"]: disk for disk in envelope.iter("Disk")}
        files = tuple(
            DescribedDisk(
                file.attrib["href"],
                int(disk.attrib["capacity"]),
                attachments.pop(disk.attrib["uuid"]),
            )
            for file in envelope.iter("File")
            if (disk := disks.pop(file.attrib["id"], None)) is not None
        )
        if attachments or disks:
            raise ValueError(f"no files for {sorted(attachments.values())} {sorted(disks)}")
    except (XmlError, KeyError, ValueError) as error:
        raise VBoxManageError(
            f"VirtualBox describes the VM in a way that is not understood: {error!r}"
        ) from None
    return files


def rename_files(ovf: bytes, name: str) -> tuple[bytes, dict[str, str]]:
    """The description with plain file names (`name-disk001.vmdk`), and the new name of each file.

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


def _attachments(envelope: Element) -> Iterator[tuple[str, Attachment]]:
    for machine in envelope.iter("Machine"):
        for controller in machine.iter("StorageController"):
            for device in controller.iterfind("AttachedDevice[@type='HardDisk']"):
                for image in device.iterfind("Image"):
                    attachment = Attachment(
                        controller.attrib["name"],
                        int(device.attrib["port"]),
                        int(device.attrib["device"]),
                    )
                    yield image.attrib["uuid"].strip("{}"), attachment
