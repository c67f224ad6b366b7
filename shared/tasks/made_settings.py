"""Makes the settings of a new VM of those that were kept of another one, as an import would.

The settings come from the NAS, where others may write: only what is named here is taken over, and
what VirtualBox would import but this program does not know makes it leave the VM to VirtualBox.
What the import itself leaves out, or what reaches into the host, is the business of
`shared.virtualbox.put_back`, as after an import. Pure.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.host.xml import Element
from shared.ova.ovf import Attachment
from shared.virtualbox.settings import SettingsError
from shared.virtualbox.settings_writing import parse_settings, render_settings, set_name
from shared.virtualbox.storage import controllers_of

#: Elements and attributes of a machine that are taken over; those below them come along.
_TAKEN: Final = frozenset(
    {"Hardware", "Groups", "Platform", "StorageControllers", "Debugging", "Autostart"}
)
_TAKEN_ATTRIBUTES: Final = frozenset({"OSType", "executionEngine", "nameSync", "processPriority"})
#: They reach into the host: taken over only if the operator wants that.
_REACHING: Final = frozenset({"Teleporter", "FaultTolerance", "Recording", "VideoCapture"})
_REACHING_ATTRIBUTES: Final = frozenset({"snapshotFolder"})
#: Made anew, put back by `put_back`, or of the past.
_LEFT: Final = frozenset({"Description", "ExtraData", "MediaRegistry", "Snapshot"})
_LEFT_ATTRIBUTES: Final = frozenset(
    {
        *("uuid", "name", "lastStateChange", "stateFile", "aborted"),
        *("currentSnapshot", "currentStateModified", "directoryIncludesUUID"),
    }
)
_HARDWARE: Final = frozenset(
    {
        *("CPU", "Memory", "Firmware", "BIOS", "HID", "HPET", "Chipset", "Iommu", "Paravirt"),
        *("Boot", "Display", "RemoteDisplay", "TrustedPlatformModule", "USB", "USBController"),
        *("Network", "UART", "LPT", "AudioAdapter", "RTC", "SharedFolders", "Clipboard"),
        *("DragAndDrop", "IO", "HostPci", "EmulatedUSB", "Guest", "GuestProperties", "Frontend"),
        "StorageControllers",
    }
)
#: Where a network card leads; VirtualBox knows more words, which an import would make these.
_MODES: Final = frozenset(
    {
        *("DisabledModes", "NAT", "BridgedInterface", "InternalNetwork", "HostOnlyInterface"),
        *("HostOnlyNetwork", "NATNetwork", "GenericInterface"),
    }
)
#: VirtualBox takes `1` and `yes` for true as well, and an import makes that `true`.
_SWITCHES: Final = ("enabled", "trace")
#: Before this version a remote display of which nothing is said is there.
_OLDEST: Final = (1, 16)
#: Of these only what is in them is taken over, not what an image or host holds.
_MEDIA: Final = frozenset({"DVD", "Floppy"})
#: What VirtualBox begins its own random addresses with.
_VENDOR: Final = "080027"


class UnknownSettingsError(Exception):
    """The kept settings cannot be used without VirtualBox's import; the message says why."""


@dataclass(frozen=True, slots=True)
class NewDisk:
    """A disk of the new VM: its UUID, its file, named below the VM's folder, and that's format."""

    uuid: str
    file: str
    format: str = "VDI"


def attachments(kept: bytes) -> frozenset[Attachment]:
    """Where the kept settings attach hard disks.

    Raises `UnknownSettingsError` unless all that they say is known.
    """
    return frozenset(_slots(_checked(kept)))


def made_settings(
    kept: bytes,
    disks: Mapping[Attachment, NewDisk],
    *,
    name: str,
    uuid: str,
    keep_macs: bool,
    with_host_access: bool,
) -> bytes:
    """The settings of a new VM with these disks.

    Raises `UnknownSettingsError` unless all that the kept ones say is known and `disks` are the
    disks there.
    """
    tree = _checked(kept)
    original = tree.find("Machine")
    if original is None or set(_slots(tree)) != set(disks):
        raise UnknownSettingsError("its settings have other disks than the copy")
    taken = _TAKEN | _REACHING if with_host_access else _TAKEN
    names = _TAKEN_ATTRIBUTES | (_REACHING_ATTRIBUTES if with_host_access else frozenset())
    machine = Element("Machine", {key: value for key, value in original.items() if key in names})
    machine.set("uuid", f"{{{uuid}}}")
    set_name(machine, name)
    machine.append(_registry(disks))
    machine.extend(child for child in original if child.tag in taken)
    set_name(machine, name)
    _attach(machine, disks, with_host_access=with_host_access)
    _close_loopback(machine)
    if not keep_macs:
        for adapter in machine.iterfind("Hardware/Network/Adapter"):
            adapter.set("MACAddress", _VENDOR + secrets.token_hex(3).upper())
    made = Element(tree.tag, {key: tree.get(key, "") for key in ("xmlns", "version")})
    made.append(machine)
    return render_settings(made)


def _close_loopback(machine: Element) -> None:
    """What a card does not say of NAT, VirtualBox takes for leave to reach the host's loopback."""
    for adapter in machine.iterfind("Hardware/Network/Adapter"):
        if adapter.find("NAT") is None and adapter.find("DisabledModes/NAT") is None:
            modes = adapter.find("DisabledModes")
            if modes is None:
                modes = Element("DisabledModes")
                adapter.insert(0, modes)
            modes.insert(0, Element("NAT", {"localhost-reachable": "false"}))


def _checked(kept: bytes) -> Element:
    try:
        tree = parse_settings(kept)
    except SettingsError as error:
        raise UnknownSettingsError(f"the settings beside it cannot be used: {error}") from None
    for machine in tree.findall("Machine"):
        _require({child.tag for child in machine}, _TAKEN | _REACHING | _LEFT)
        known = _TAKEN_ATTRIBUTES | _REACHING_ATTRIBUTES | _LEFT_ATTRIBUTES
        _require(set(machine.keys()), known)
        for hardware in machine.findall("Hardware"):
            _require({child.tag for child in hardware}, _HARDWARE)
            for adapter in hardware.iterfind("Network/Adapter"):
                for modes in (adapter, *adapter.findall("DisabledModes")):
                    _require({child.tag for child in modes}, _MODES)
        switches = {each.get(name, "true") for each in machine.iter() for name in _SWITCHES}
        _require(switches, frozenset({"true", "false"}))
    if tuple(map(int, re.findall(r"[0-9]{1,4}", tree.get("version", "")))) < _OLDEST:
        raise UnknownSettingsError("the settings beside it are of an old version of VirtualBox")
    if len(tree.findall("Machine")) != 1 or len(tree.findall("Machine/Hardware")) != 1:
        raise UnknownSettingsError("the settings beside it describe no single machine")
    return tree


def _require(found: set[str], known: frozenset[str]) -> None:
    if unknown := sorted(found - known):
        raise UnknownSettingsError(
            f"the settings beside it have something that this program does not know: {unknown[0]}"
        )


def _slots(tree: Element) -> list[Attachment]:
    return [
        _slot(controller, device)
        for machine in tree.findall("Machine")
        for controller in controllers_of(machine)
        for device in controller.iterfind("AttachedDevice[@type='HardDisk']")
    ]


def _slot(controller: Element, device: Element) -> Attachment:
    numbers = device.get("port", ""), device.get("device", "")
    if not all(number.isascii() and number.isdigit() and len(number) < 6 for number in numbers):
        raise UnknownSettingsError("the settings beside it attach a disk nowhere")
    return Attachment(controller.get("name", ""), int(numbers[0]), int(numbers[1]))


def _registry(disks: Mapping[Attachment, NewDisk]) -> Element:
    registry, images = Element("MediaRegistry"), Element("HardDisks")
    for disk in disks.values():
        words = {"location": disk.file, "format": disk.format, "type": "Normal"}
        images.append(Element("HardDisk", {"uuid": f"{{{disk.uuid}}}", **words}))
    registry.append(images)
    return registry


def _attach(
    machine: Element, disks: Mapping[Attachment, NewDisk], *, with_host_access: bool
) -> None:
    """Puts the new disks in the places of the old ones, and empties all other drives."""
    for controller in controllers_of(machine):
        for device in controller.findall("AttachedDevice"):
            for child in list(device):
                if not (with_host_access and child.tag == "HostDrive"):
                    device.remove(child)
            if device.get("type") == "HardDisk":
                disk = disks[_slot(controller, device)]
                device.append(Element("Image", {"uuid": f"{{{disk.uuid}}}"}))
            elif device.get("type") not in _MEDIA:
                controller.remove(device)
