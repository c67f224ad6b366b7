"""Why a VM cannot be exported unattended, or not now, told before anything is started.

Otherwise VirtualBox asks for a password, or fails late.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from enum import StrEnum, unique
from typing import Final

from shared.virtualbox.export_errors import ExportError
from shared.virtualbox.inventory import Machine
from shared.virtualbox.storage import AttachedDisk, Image, files_of
from shared.virtualbox.usb_drives import on_usb
from shared.virtualbox.vboxmanage import VBoxManage

#: VirtualBox (7.2.22) calls the disks in an `.ova` after the VM, and a name in a tar header has 100
#: bytes with its end.
LONGEST_NAME_BYTES: Final = 99 - len("-disk001.vmdk")

#: Types of disks that VirtualBox lets one running VM at a time write to.
_ALONE: Final = frozenset({"", "normal"})
#: Types of disks that a snapshot does not freeze.
_UNFROZEN: Final = frozenset({"writethrough", "shareable"})


def refuse_unexportable(machine: Machine) -> None:
    """Raises `ExportError` that says what is in the way.

    A disk that is encrypted, that is on a USB controller, whose file is missing, or cannot be read.

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
    if place := next((disk for disk in _disks(machine) if on_usb(disk.bus)), None):
        raise ExportError(
            f"its disk {_location(machine, place.image)} is on the USB controller "
            f"{place.controller!r}, from which VirtualBox exports no disk",
            hint="attach it to a SATA, SCSI, NVMe or IDE controller",
        )
    if problem := next(_unreadable(machine), None):
        raise ExportError(
            problem, hint="put the file back where VirtualBox expects it, or detach the disk"
        )


def unfrozen_disk(machine: Machine) -> Image | None:
    """A disk of the VM that a snapshot does not freeze; None: it freezes all of them.

    Measured on VirtualBox 7.2.22: disks of the types writethrough and shareable are written to
    after a snapshot as before, and a clone of the snapshot has the very same disk. (Immutable and
    multi-attach ones are written to through an image of their own, which a snapshot freezes.)
    """
    leaves = (chain[0] for chain in machine.chains)
    return next((leaf for leaf in leaves if leaf.kind.lower() in _UNFROZEN), None)


def refuse_unfrozen(machine: Machine) -> None:
    """Raises `ExportError` if a snapshot of the VM does not freeze all of its disks."""
    disk = unfrozen_disk(machine)
    if disk is not None:
        raise ExportError(
            f"its disk {disk.location} is {disk.kind.lower()}: no snapshot freezes it, so there "
            f"can be no live copy",
            hint='running = "savestate", "shutdown" or "defer" backs the VM up while it stands '
            "still; or make it an ordinary disk",
        )


def may_be_shared(machine: Machine) -> bool:
    """Whether a disk of the VM is of a kind that two VMs may write to at the same time.

    An ordinary one may be attached to several VMs, of which one at a time can run: its lock shows.
    """
    return any(chain[0].kind.lower() not in _ALONE for chain in machine.chains)


def refuse_written_elsewhere(machine: Machine, others: Iterable[Machine]) -> None:
    """Raises `ExportError` if another VM that runs has the same disk: a shareable one."""
    own = {chain[0].uuid for chain in machine.chains}
    for other in others:
        if not other.running or other.uuid == machine.uuid:
            continue
        shared = next((chain[0] for chain in other.chains if chain[0].uuid in own), None)
        if shared is not None:
            raise ExportError(
                f"its disk {shared.location} is shared with the VM {other.name!r}, which runs",
                hint="it is backed up when that VM has stopped as well; the next tick looks again",
            )


def _disks(machine: Machine) -> tuple[AttachedDisk, ...]:
    return machine.settings.disks if machine.settings else ()


def _location(machine: Machine, uuid: str) -> str:
    return next((image.location for image in machine.images if image.uuid == uuid), uuid)


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
                mode = os.stat(path).st_mode
            except OSError as error:
                yield f"its disk {path} cannot be used: {error.strerror}"
            else:
                if not _holds_bytes(mode):  # VirtualBox would wait for ever at a pipe
                    yield f"its disk {path} cannot be used: neither a file nor a disk is there"
                elif not os.access(path, os.R_OK):
                    yield f"its disk {path} cannot be read by this user"


def _holds_bytes(mode: int) -> bool:
    """Whether it is a file or the disk of a host, which macOS has as a character device."""
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISCHR(mode)


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
