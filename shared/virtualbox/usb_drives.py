"""Drives on USB controllers with something in them: with one, VirtualBox exports no VM.

Measured on VirtualBox 7.2.22 (docs/virtualbox.md): `storageBus is 6`, as for a hard disk there; an
empty drive does no harm, nor does an image in a drive on any other controller. A clone can be
exported when its drives are empty, which is nothing that its VM would notice.
"""

from shared.virtualbox.export_errors import ExportError
from shared.virtualbox.inventory import Machine
from shared.virtualbox.storage import FilledDrive
from shared.virtualbox.vboxmanage import VBoxManage


def on_usb(bus: str) -> bool:
    """Whether this type of controller is one from which VirtualBox exports nothing."""
    return bus.upper() == "USB"


def filled_usb_drives(machine: Machine) -> tuple[FilledDrive, ...]:
    """The drives that keep VirtualBox from exporting the VM."""
    drives = machine.settings.drives if machine.settings else ()
    return tuple(drive for drive in drives if on_usb(drive.bus))


def refuse_filled_usb_drive(machine: Machine) -> None:
    """Raises `ExportError` if there is one: for a VM that is not exported from a clone."""
    if drive := next(iter(filled_usb_drives(machine)), None):
        raise ExportError(
            f"{drive.words}: that is on the USB controller {drive.controller!r}, from which "
            f"VirtualBox exports nothing",
            hint="take it out, or attach the drive to a SATA or IDE controller; or use the live "
            'method (running = "live"), which exports a clone without it',
        )


def eject_from_clone(vboxmanage: VBoxManage, clone: Machine) -> bool:
    """Empties such drives of a clone that is our own; whether there were any.

    VirtualBox changes no VM with saved memory, so what the clone has of that goes, too. Raises
    `VBoxManageError`.
    """
    drives = filled_usb_drives(clone)
    if drives and clone.settings and clone.settings.state_file:
        vboxmanage.run("discardstate", clone.uuid)
    for drive in drives:
        vboxmanage.run(
            *("storageattach", clone.uuid, f"--storagectl={drive.controller}"),
            *(f"--port={drive.port}", f"--device={drive.device}"),
            *("--type=dvddrive", "--medium=emptydrive"),
        )
    return bool(drives)
