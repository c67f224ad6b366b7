"""Why a VM cannot be exported unattended, or not now, told before anything is started.

Otherwise VirtualBox asks for a password, or fails late.
"""

import os
from collections.abc import Iterator
from enum import StrEnum, unique
from typing import Final

from shared.virtualbox.export_errors import ExportError
from shared.virtualbox.inventory import Machine, files_of
from shared.virtualbox.vboxmanage import VBoxManage

#: VirtualBox (7.2.22) calls the disks in an `.ova` after the VM, and a name in a tar header has 100
#: bytes with its end.
LONGEST_NAME_BYTES: Final = 99 - len("-disk001.vmdk")


def refuse_unexportable(machine: Machine) -> None:
    """Raises `ExportError` that says what is in the way.

    A disk that is encrypted, whose file is missing, or cannot be read.

    `machine` is accessible. Looks at the disk files, takes no lock, changes nothing.
    """
    encrypted = next((image for image in machine.images if image.encrypted), None)
    if encrypted is not None:
        raise ExportError(
            (
                f"its disk {encrypted.location} is encrypted: VirtualBox would ask for the "
                f"password "
                f"at each export"
            ),
            hint=(
                "decrypt it (`VBoxManage encryptmedium`) and encrypt inside the guest instead, "
                "or archive the VM to take it out"
            ),
        )
    if problem := next(_unreadable(machine), None):
        raise ExportError(
            problem, hint="put the file back where VirtualBox expects it, or detach the disk"
        )


def has_long_name(name: str) -> bool:
    """Whether a VM of this name can only be exported through a clone, which has a short one.

    Holds for both engines.
    """
    return len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME_BYTES


def refuse_long_name(machine: Machine) -> None:
    """Raises `ExportError` if VirtualBox cannot write an `.ova` with this name."""
    if has_long_name(machine.name or "") and machine.chains:
        size = len((machine.name or "").encode("utf-8", "surrogatepass"))
        raise ExportError(
            (
                f"its name has {size} bytes: saved or shut down VMs are exported with at most "
                f"{LONGEST_NAME_BYTES}"
            ),
            hint=(
                'rename it, or use the live method (running = "live"), which exports a clone '
                "with a short name"
            ),
        )


def _unreadable(machine: Machine) -> Iterator[str]:
    for image in machine.images:
        for path in files_of(image):
            try:
                os.stat(path)
            except OSError as error:
                yield f"its disk {path} cannot be used: {error.strerror}"
            else:
                if not os.access(path, os.R_OK):
                    yield f"its disk {path} cannot be read by this user"


@unique
class DiskUse(StrEnum):
    """Who works with the disks of a VM, as far as VirtualBox knows."""

    #: Nobody.
    FREE = "free"
    #: They are read. If the VM is off, that is an export (also one whose VBoxManage was killed) or
    #: a copy being made of them.
    READ = "read"
    #: They are written: the VM runs, or a snapshot is merged.
    WRITTEN = "written"


def disk_use(vboxmanage: VBoxManage, machine: Machine) -> DiskUse:
    """Asks for each disk of the VM. Raises `VBoxManageError`.

    That is the only way to see an export whose VBoxManage was killed: `showvminfo` says `poweroff`
    and no more. Only the images that the VM itself writes to count: what they are based on is also
    read by linked clones that run.
    """
    states = {vboxmanage.medium_state(chain[0].uuid) for chain in machine.chains}
    if "locked write" in states:
        return DiskUse.WRITTEN
    return DiskUse.READ if "locked read" in states else DiskUse.FREE
