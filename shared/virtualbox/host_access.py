"""What lets a VM write to its host, listen there, or use its devices: found, told, and taken away.

The settings of a VM that is restored come from the NAS, where others may write. An import takes
most of this over (docs/virtualbox.md), so it is taken away from what was imported unless the
operator wants it. (`trial_settings` is stricter: there, only what is named may stay.) Pure.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host.xml import Element
from shared.virtualbox.storage import controllers_of

#: Names of extra data by which VirtualBox itself is told to do things; compared in lower case.
_INTERNAL: Final = "vboxinternal"
_NO_DEVICE_OF_THE_HOST: Final = ("", "None", "v1_2", "v2_0")
#: Elements of a machine that do such a thing when they are enabled.
_SWITCHED: Final = (
    ("Teleporter", "teleporter"),
    ("FaultTolerance", "fault tolerance"),
    ("Recording", "recording of the screen"),
    ("VideoCapture", "recording of the screen"),
)


@dataclass(frozen=True, slots=True)
class Access:
    """One such setting: what it is, in words, and how it is taken away from the tree."""

    text: str
    remove: Callable[[], None]


def host_access(machine: Element, folder: Path | None = None) -> list[Access]:
    """All of them in a `<Machine>` as it is now.

    `folder` is that of the VM: what lies in there is its own. Without it, all paths are foreign.
    """
    hardware = machine.findall("Hardware")
    found = [access for each in hardware for access in _of_hardware(each)]
    return [*found, *_of_media(machine), *_of_machine(machine, folder)]


def is_internal(name: str) -> bool:
    """Whether extra data of this name tells VirtualBox itself what to do."""
    return name.strip().lower().startswith(_INTERNAL)


def _of_hardware(hardware: Element) -> Iterator[Access]:
    yield from _of_folders_and_ports(hardware)
    for adapter in hardware.findall("Network/Adapter"):
        yield from _of_adapter(adapter)
    for display in hardware.findall("RemoteDisplay"):
        if display.get("enabled") == "true":
            yield Access("remote display", _setting(display, enabled="false"))
    for module in hardware.findall("TrustedPlatformModule"):
        if module.get("type", "") not in _NO_DEVICE_OF_THE_HOST:
            what = f"TPM of the host ({module.get('type')} {module.get('location', '')})"
            yield Access(what, _removal(hardware, module))
    for devices in hardware.findall("HostPci"):
        yield Access("PCI devices of the host", _removal(hardware, devices))
    for paravirt in hardware.findall("Paravirt"):
        if paravirt.get("debug"):
            what = f"debugging of the guest ({paravirt.get('debug')})"
            yield Access(what, _without(paravirt, "debug"))


def _of_folders_and_ports(hardware: Element) -> Iterator[Access]:
    for folders in hardware.findall("SharedFolders"):
        for folder in folders.findall("SharedFolder"):
            what = f"shared folder {folder.get('name')!r} ({folder.get('hostPath')})"
            yield Access(what, _removal(folders, folder))
    for port in hardware.findall("UART/Port"):
        if port.get("hostMode", "Disconnected") != "Disconnected":
            what = f"serial line {_number(port)} ({port.get('hostMode')} {port.get('path', '')})"
            yield Access(what, _disconnection(port))
    for ports in hardware.findall("LPT"):
        for port in ports.findall("Port"):
            if port.get("enabled") == "true" or port.get("path"):
                what = f"parallel port {_number(port)} ({port.get('path', '')})"
                yield Access(what, _removal(ports, port))


def _of_adapter(adapter: Element) -> Iterator[Access]:
    number = _number(adapter)
    if adapter.get("trace") == "true" or adapter.get("tracefile"):
        what = f"packet capture of network card {number} ({adapter.get('tracefile', '')})"
        yield Access(what, _without(adapter, "trace", "tracefile"))
    for parent in (adapter, *adapter.findall("DisabledModes")):
        for nat in parent.findall("NAT"):
            for forwarding in nat.findall("Forwarding"):
                port = f"{forwarding.get('hostip', '')}:{forwarding.get('hostport', '')}"
                what = f"forwarded port {forwarding.get('name')!r} of network card {number}"
                yield Access(f"{what} ({port})", _removal(nat, forwarding))
            for tftp in nat.findall("TFTP"):
                what = f"boot files of the host for network card {number}"
                yield Access(f"{what} ({tftp.get('prefix', '')})", _removal(nat, tftp))
        for generic in parent.findall("GenericInterface"):
            what = f"driver {generic.get('driver')!r} of network card {number}"
            yield Access(what, _removal(parent, generic))


def _of_media(machine: Element) -> Iterator[Access]:
    devices = [
        device
        for controller in controllers_of(machine)
        for device in controller.iterfind("AttachedDevice")
    ]
    for device in devices:
        for drive in device.findall("HostDrive"):
            yield Access(f"drive of the host ({drive.get('src')})", _removal(device, drive))
        for image in device.findall("Image") if device.get("type") == "Floppy" else ():
            yield Access(f"floppy image ({_location(machine, image)})", _removal(device, image))


def _of_machine(machine: Element, folder: Path | None) -> Iterator[Access]:
    for kind, what in _SWITCHED:
        for element in machine.findall(kind):
            if element.get("enabled", "true") == "true":
                yield Access(what, _removal(machine, element))
    for debugging in machine.findall("Debugging"):
        yield from _of_debugging(debugging)
    place = machine.get("snapshotFolder", "")
    if place and not _is_own(place, folder):
        yield Access(f"snapshots in {place}", _setting(machine, snapshotFolder="Snapshots"))
    for extra in machine.findall("ExtraData"):
        for item in extra.findall("ExtraDataItem"):
            if is_internal(item.get("name", "")):
                yield Access(f"extra data {item.get('name')!r}", _removal(extra, item))


def _of_debugging(debugging: Element) -> Iterator[Access]:
    for debug in debugging.findall("GuestDebug"):
        if debug.get("provider", "None") != "None":
            what = f"debugger of the guest ({debug.get('address', '')}:{debug.get('port', '')})"
            yield Access(what, _removal(debugging, debug))
    for tracing in debugging.findall("Tracing"):
        if tracing.get("enabled") == "true":
            yield Access("tracing", _removal(debugging, tracing))


def _is_own(place: str, folder: Path | None) -> bool:
    if folder is None:
        return not place.startswith("/") and ".." not in place.split("/")
    return (folder / place).resolve().is_relative_to(folder.resolve())


def _location(machine: Element, image: Element) -> str:
    for known in machine.iterfind("MediaRegistry/FloppyImages/Image"):
        if known.get("uuid") == image.get("uuid"):
            return known.get("location", "")
    return image.get("uuid", "")


def _number(element: Element) -> str:
    slot = element.get("slot", "")
    return str(int(slot) + 1) if slot.isascii() and slot.isdigit() and len(slot) < 4 else "?"


def _removal(parent: Element, child: Element) -> Callable[[], None]:
    return lambda: parent.remove(child)


def _setting(element: Element, **values: str) -> Callable[[], None]:
    return lambda: element.attrib.update(values)


def _without(element: Element, *names: str) -> Callable[[], None]:
    def remove() -> None:
        for name in names:
            element.attrib.pop(name, None)

    return remove


def _disconnection(port: Element) -> Callable[[], None]:
    def disconnect() -> None:
        port.set("hostMode", "Disconnected")
        _without(port, "path", "server")()

    return disconnect
