"""Descriptions that VirtualBox writes and does not import: two SCSI controllers in one VM.

VirtualBox (7.2.22) calls LsiLogic and LsiLogicSas both a SCSI controller of an `.ovf`, hangs the
disks of both on the last one, and takes only the first one at its import: `Cannot find storage
controller with OVF instance ID`. So all disks are hung on the first one here. What controllers the
VM really has, and where its disks are, an import takes from the vbox:Machine element, which stays.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Final

from shared.host.errors import CopyError
from shared.nas.nas_errors import reported
from shared.nas.reading import open_file
from shared.ova.ovf import OVF_LIMIT
from shared.ova.tar import TarMember, members

_CONTROLLER: Final = re.compile(
    rb"<Item>(?:(?!</Item>).)*?<rasd:InstanceID>(\d+)</rasd:InstanceID>"
    rb"(?:(?!</Item>).)*?<rasd:ResourceType>6</rasd:ResourceType>",
    re.DOTALL,
)
_DISK: Final = re.compile(rb"<StorageItem>.*?</StorageItem>", re.DOTALL)
_PARENT: Final = re.compile(rb"\s*<sasd:Parent>(\d+)</sasd:Parent>")
_ADDRESS: Final = re.compile(rb"\s*<sasd:AddressOnParent>\d+</sasd:AddressOnParent>")


def on_one_controller(ovf: bytes) -> bytes:
    """The description with all SCSI disks on the first SCSI controller, as long as it was.

    Unchanged if there is one such controller at most. Pure.
    """
    found = _CONTROLLER.findall(ovf)
    if len(found) < 2:
        return ovf
    first, address = found[0], 0

    def moved(match: re.Match[bytes]) -> bytes:
        nonlocal address
        disk = match[0]
        parent = _PARENT.search(disk)
        if parent is None or parent[1] not in found:
            return disk
        # their indentation is left out: so it never gets longer, whatever the numbers are
        disk = _PARENT.sub(b"\n<sasd:Parent>%s</sasd:Parent>" % first, disk)
        place = b"\n<sasd:AddressOnParent>%d</sasd:AddressOnParent>" % address
        address += 1
        return _ADDRESS.sub(place, disk)

    return _DISK.sub(moved, ovf).ljust(len(ovf))


def mend(directory: Path, name: str) -> None:
    """Does the same to an `.ova` that VirtualBox has written, where it is, and to its manifest.

    The file must not be published yet. Killed in the middle, it leaves one that no check accepts.
    Raises `CopyError` if it is no `.ova`, `NasError`.
    """
    path = directory / name
    with reported(f"mend {name}"):
        with open_file(path, follow=False) as file:
            changes = _changes(file.fileno(), members(file.fileno()))
        if not changes:
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for position, data in changes:
                if os.pwrite(descriptor, data, position) != len(data):
                    raise CopyError("the NAS took only a part of its mended description")
        finally:
            os.close(descriptor)


def _changes(descriptor: int, found: tuple[TarMember, ...]) -> list[tuple[int, bytes]]:
    """What is to be written where; nothing if the description is as it should be."""
    if not found or max(found[0].size, found[-1].size) > OVF_LIMIT:
        return []  # the check says what is wrong with it
    ovf, manifest = (
        os.pread(descriptor, member.size, member.position) for member in (found[0], found[-1])
    )
    mended = on_one_controller(ovf)
    if mended == ovf:
        return []
    old, new = (hashlib.sha256(text).hexdigest().encode() for text in (ovf, mended))
    return [(found[0].position, mended), (found[-1].position, manifest.replace(old, new))]
