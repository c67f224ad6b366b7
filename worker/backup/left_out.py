"""What of a VM is in no file of its copy, in words: told beside the copy, and when it is restored.

Measured with VirtualBox 7.2.22: an `.ova` has no memory of a saved VM, no snapshots, no images of
CDs and floppies, no devices of the host, and of each disk what its VM reads now. Kinds of disks
come back from the kept settings, as far as they can (`shared.virtualbox.put_back`).
"""

import os
from collections.abc import Iterator

from shared.host.configuration import VmPolicy
from shared.virtualbox.inventory import Machine
from shared.virtualbox.storage import files_of
from shared.virtualbox.usb_drives import filled_usb_drives
from worker.backup.room import state_file


def data_left_out(machine: Machine, policy: VmPolicy) -> tuple[str, ...]:
    """Data of its user that the copy will not have: worth a warning. `machine`: not yet touched."""
    said = []
    if machine.settings and machine.settings.snapshot:
        said.append("its snapshots: the copy has the VM's current state only")
    if memory := state_file(machine):
        if policy.saved == "warn":
            said.append('its saved memory (saved = "warn")')
        elif not os.path.exists(memory):
            said.append(f"its saved memory: {memory} is gone")
    elif machine.running and policy.saved == "keep" and policy.running == "live":
        said += [
            f"its memory, as {drive.words.partition(': ')[0]} had to be taken out of a clone"
            for drive in filled_usb_drives(machine)[:1]
        ]
    return tuple(said)


def parts_left_out(machine: Machine) -> tuple[str, ...]:
    """What belongs to a VM of such a kind and lies elsewhere, or that an `.ova` cannot have."""
    return (*_in_drives(machine), *_of_disks(machine), *_of_the_host(machine))


def _in_drives(machine: Machine) -> Iterator[str]:
    for drive in machine.settings.drives if machine.settings else ():
        yield drive.words


def _of_the_host(machine: Machine) -> Iterator[str]:
    if machine.settings and machine.settings.has_pci_devices:
        yield "the PCI devices of the host"


def _of_disks(machine: Machine) -> Iterator[str]:
    for chain in machine.chains:
        leaf, base = chain[0], chain[-1]
        if leaf.auto_reset:
            yield (
                f"what its disk {base.location} goes back to when the VM starts: the copy has the "
                f"disk as it was left"
            )
        if base.kind.lower() == "shareable":
            yield f"that its disk {base.location} is shareable: it comes back as an ordinary one"
        if device := next((path for path in [*files_of(base)][1:] if path.startswith("/dev/")), ""):
            yield f"that its disk {base.location} is {device} itself: it comes back as an image"
