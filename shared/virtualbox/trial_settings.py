"""What may stay of a copied VM that is started on trial.

The copy of a server must not meet the server, nor write or listen on this host: a network, a shared
folder, a serial line, a recording, a packet capture, a debugger, a remote display, a device of the
host. New versions of VirtualBox bring more of these. So this is no list of what to switch off: of
the settings that VirtualBox has imported only those stay that are named here, everything else gets
its default, and the disks are those in the VM's own folder.

Whatever starts a copy starts it with these settings. Pure: bytes are made of bytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from shared.host.xml import Element
from shared.virtualbox.settings_writing import parse_settings, render_settings
from shared.virtualbox.storage import uuid_of

#: Elements that may stay, by their path, with the attributes that may. What is below them stays
#: only if it is named, too.
_FIRMWARE: Final[Mapping[str, str]] = {
    "": "type",
    "/ACPI": "enabled",
    "/IOAPIC": "enabled",
    "/APIC": "mode",
    "/Logo": "fadeIn fadeOut displayTime",
    "/BootMenu": "mode",
    "/TimeOffset": "value",
    "/SmbiosUuidLittleEndian": "enabled",
    "/AutoSerialNumGen": "enabled",
    "/SecureBoot": "enabled",
}
_PROCESSOR: Final[Mapping[str, str]] = {
    "": "count executionCap hotplug CpuProfile",
    "/CpuTree": "",
    "/CpuTree/Cpu": "id",
    "/CpuIdTree": "",
    "/CpuIdTree/CpuIdLeaf": "id subleaf eax ebx ecx edx",
    **{
        f"/{name}": "enabled"
        for name in (
            *("HardwareVirtEx", "HardwareVirtExNestedPaging", "HardwareVirtExVPID"),
            *("HardwareVirtExUX", "HardwareVirtExLargePages", "HardwareVirtForce"),
            *("HardwareVirtExUseNativeApi", "HardwareVirtExVirtVmsaveVmload"),
            *("PAE", "LongMode", "X2APIC", "APIC", "TripleFaultReset", "NestedHWVirt"),
            *("SpecCtrlByHost", "IBPBOn", "SpecCtrl", "L1DFlushOn", "MDSClearOn"),
            *("HardwareVirtExNestedVirt", "HardwareVirtExTripleFaultReset"),
        )
    },
}
_STORAGE: Final[Mapping[str, str]] = {
    "": "",
    "/StorageController": "name type PortCount useHostIOCache Bootable "
    "IDE0MasterEmulationPort IDE0SlaveEmulationPort IDE1MasterEmulationPort IDE1SlaveEmulationPort",
    "/StorageController/AttachedDevice": "type hotpluggable port device nonrotational discard",
    "/StorageController/AttachedDevice/Image": "uuid",
}
_ALLOWED: Final[Mapping[str, frozenset[str]]] = {
    path: frozenset(names.split())
    for path, names in {
        "Machine": "uuid name OSType lastStateChange executionEngine",
        "Machine/MediaRegistry": "",
        "Machine/MediaRegistry/HardDisks": "",
        "Machine/MediaRegistry/HardDisks/HardDisk": "uuid location format type",
        "Machine/Hardware": "version uuid",
        "Machine/Hardware/Memory": "RAMSize",
        "Machine/Hardware/HID": "Pointing Keyboard",
        "Machine/Hardware/Paravirt": "provider",
        "Machine/Hardware/HPET": "enabled",
        "Machine/Hardware/Chipset": "type",
        "Machine/Hardware/RTC": "localOrUTC",
        "Machine/Hardware/Boot": "",
        "Machine/Hardware/Boot/Order": "position device",
        "Machine/Hardware/Display": "controller VRAMSize monitorCount",
        "Machine/Hardware/TrustedPlatformModule": "type",
        "Machine/Hardware/USB": "",
        "Machine/Hardware/USB/Controllers": "",
        "Machine/Hardware/USB/Controllers/Controller": "name type",
        "Machine/Hardware/Network": "",
        "Machine/Hardware/Network/Adapter": "slot enabled MACAddress type",
        "Machine/Hardware/UART": "",
        "Machine/Hardware/UART/Port": "slot enabled IOAddress IRQ",
        "Machine/Hardware/GuestProperties": "",
        "Machine/Hardware/GuestProperties/GuestProperty": "name value timestamp flags",
        "Machine/Platform": "architecture",
        "Machine/Platform/RTC": "localOrUTC",
        "Machine/Platform/Chipset": "type",
        "Machine/Platform/Iommu": "type",
        "Machine/Platform/x86": "",
        "Machine/Platform/x86/HPET": "enabled",
        "Machine/Platform/arm": "",
        **{f"Machine/Hardware/Firmware{path}": names for path, names in _FIRMWARE.items()},
        **{f"Machine/Hardware/BIOS{path}": names for path, names in _FIRMWARE.items()},
        **{f"Machine/Hardware/CPU{path}": names for path, names in _PROCESSOR.items()},
        **{f"Machine/Platform/CPU{path}": names for path, names in _PROCESSOR.items()},
        **{f"Machine/Platform/x86/CPU{path}": names for path, names in _PROCESSOR.items()},
        **{f"Machine/Platform/arm/CPU{path}": names for path, names in _PROCESSOR.items()},
        **{f"Machine/Hardware/StorageControllers{path}": names for path, names in _STORAGE.items()},
        **{f"Machine/StorageControllers{path}": names for path, names in _STORAGE.items()},
    }.items()
}
#: What these elements say besides, whatever they said before.
_FORCED: Final[Mapping[str, Mapping[str, str]]] = {
    "Machine/Hardware/Network/Adapter": {"cable": "false"},
    "Machine/Hardware/UART/Port": {"hostMode": "Disconnected"},
}
#: Of these only the emulated ones may stay: others are devices of the host.
_EMULATED_TPM: Final = frozenset({"v1_2", "v2_0"})


def trial_settings(data: bytes, folder: Path) -> bytes:
    """The settings with which a copy may be started: `data` are those that were imported.

    `folder` is that of the VM, made for it alone: disks elsewhere do not stay. Raises
    `SettingsError`.
    """
    tree = parse_settings(data)
    kept = Element(tree.tag, {name: tree.get(name, "") for name in ("xmlns", "version")})
    machine = tree.find("Machine")
    if machine is not None:
        kept.append(_allowed(machine, "Machine"))
    _without_other_disks(kept, folder)
    for hardware in kept.iterfind("Machine/Hardware"):
        for module in hardware.findall("TrustedPlatformModule"):
            if module.get("type") not in _EMULATED_TPM:
                hardware.remove(module)
        hardware.append(Element("RemoteDisplay", {"enabled": "false"}))
    return render_settings(kept)


def _allowed(element: Element, path: str) -> Element:
    names = _ALLOWED[path]
    kept = Element(
        element.tag,
        {name: value for name, value in element.items() if name in names}
        | dict(_FORCED.get(path, {})),
    )
    kept.extend(
        _allowed(child, f"{path}/{child.tag}")
        for child in element
        if f"{path}/{child.tag}" in _ALLOWED
    )
    return kept


def _without_other_disks(tree: Element, folder: Path) -> None:
    """Only disks below the VM's own folder stay; drives for other media are empty."""
    own = set()
    for disks in tree.iterfind("Machine/MediaRegistry/HardDisks"):
        for disk in disks.findall("HardDisk"):
            place = (folder / disk.get("location", "")).resolve()
            if disk.get("location") and place.is_relative_to(folder.resolve()):
                own.add(uuid_of(disk))
            else:
                disks.remove(disk)
    for device in tree.iter("AttachedDevice"):
        for image in device.findall("Image"):
            if device.get("type") != "HardDisk" or uuid_of(image) not in own:
                device.remove(image)
    for controller in tree.iter("StorageController"):
        for device in controller.findall("AttachedDevice"):
            if device.get("type") == "HardDisk" and device.find("Image") is None:
                controller.remove(device)
