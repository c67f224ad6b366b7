"""What comes back of a VM that an import leaves out, by the settings file that its copy has kept.

An import makes nearly all settings anew (docs/virtualbox.md). What it drops is put back from the
`.vbox` beside the copy: that comes from the NAS, where others may write, so only what is named here
is taken from it, and what reaches into the host only if the operator wants that. Pure.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host.xml import Element
from shared.virtualbox.drives import (
    Drive,
    DriveSlot,
    devices,
    image_drives,
    is_filled,
    reset_slots,
    slot_of,
    slot_of_disk,
)
from shared.virtualbox.host_access import host_access, is_internal
from shared.virtualbox.settings import SettingsError
from shared.virtualbox.settings_writing import parse_settings, render_settings, set_name
from shared.virtualbox.storage import (
    attached_disks,
    uuid_of,
)

#: Kinds of disks that VirtualBox gives a differencing image when it attaches them: so they are
#: attached by it, with that kind. The others are in the settings alone.
_BY_ATTACHING: Final = {"Immutable": "immutable", "MultiAttach": "multiattach"}
_BY_SETTING: Final = frozenset({"Writethrough"})
_ADAPTERS: Final = "Hardware/Network/Adapter"
_LOOPBACK: Final = "localhost-reachable"
_SHARED_FOLDER: Final = ("name", "hostPath", "writable", "autoMount", "autoMountPoint")
_SERIAL: Final = ("hostMode", "path", "server")


@dataclass(frozen=True, slots=True)
class DiskKind:
    """A disk, by UUID, that is to be attached as one of this kind, with these options.

    `auto_reset`: what its VM writes to it is gone at the next start.
    """

    slot: DriveSlot
    image: str
    kind: str
    options: tuple[str, ...]
    auto_reset: bool


@dataclass(frozen=True, slots=True)
class PutBack:
    """The settings to register the VM with, and what VirtualBox is asked for afterwards.

    `host_access` is what reaches into the host, in words, and was left out or (if that was wanted)
    put back; `lost` is what does not come back whatever was wanted.
    """

    settings: bytes
    kinds: tuple[DiskKind, ...] = ()
    drives: tuple[Drive, ...] = ()
    host_access: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def put_back(
    imported: bytes, kept: bytes | None, folder: Path, *, name: str, with_host_access: bool
) -> PutBack:
    """What becomes of a VM in `folder` that was `imported`, and is to be called `name`.

    Settings that were `kept` and cannot be read are lost, and said to be. Raises `SettingsError` if
    those that were imported cannot be read.
    """
    tree = parse_settings(imported)
    machine = _machine(tree)
    access = host_access(machine, folder)
    told = [each.text for each in access]
    if not with_host_access:
        for each in access:
            each.remove()
    set_name(machine, name)
    original, lost, version = _read(kept)
    if original is None:
        return PutBack(render_settings(tree), host_access=tuple(told), lost=lost)
    told += [each.text for each in host_access(original) if each.text not in told]
    _put_texts_back(machine, original, internal=with_host_access)
    _put_loopback_back(machine, original, _unsaid_loopback(version))
    if with_host_access:
        _put_access_back(machine, original)
    kinds, unlike = _kinds(machine, original)
    drives = [
        drive
        for drive in image_drives(original)
        if (drive.kind == "dvddrive" or with_host_access) and not is_filled(machine, drive.slot)
    ]
    return PutBack(render_settings(tree), kinds, tuple(drives), tuple(told), unlike)


def kept_host_access(kept: bytes | None) -> tuple[str, ...]:
    """What of the kept settings reaches into the host, in words. Never raises."""
    original, _, _ = _read(kept)
    return tuple(each.text for each in host_access(original)) if original is not None else ()


def _read(kept: bytes | None) -> tuple[Element | None, tuple[str, ...], str]:
    """The machine in the kept settings, what is lost if there is none, and their version."""
    if kept is None:
        return None, (), ""
    try:
        tree = parse_settings(kept)
        return _machine(tree), (), tree.get("version", "")
    except SettingsError as error:
        return None, (f"what only its settings file had, which cannot be used: {error}",), ""


def _machine(tree: Element) -> Element:
    machine = tree.find("Machine")
    if machine is None:
        raise SettingsError("it describes no machine")
    return machine


def _put_texts_back(machine: Element, original: Element, *, internal: bool) -> None:
    """Description and extra data: texts that mean something to people, guests and programs."""
    for element in machine.findall("Description") + machine.findall("ExtraData"):
        machine.remove(element)
    if text := original.findtext("Description"):
        description = Element("Description")
        description.text = text
        machine.insert(0, description)
    items = [
        Element("ExtraDataItem", {"name": item.get("name", ""), "value": item.get("value", "")})
        for item in original.iterfind("ExtraData/ExtraDataItem")
        if item.get("name") and (internal or not is_internal(item.get("name", "")))
    ]
    if items:
        extra = Element("ExtraData")
        extra.extend(items)
        hardware = machine.find("Hardware")
        machine.insert(list(machine).index(hardware) if hardware is not None else 0, extra)


def _put_loopback_back(machine: Element, original: Element, unsaid: str) -> None:
    """Whether a guest reaches the loopback addresses of its host: an import lets all of them.

    `unsaid` is what it means if the kept settings do not say it.
    """
    kept = {adapter.get("slot"): adapter for adapter in original.iterfind(_ADAPTERS)}
    for adapter in machine.iterfind(_ADAPTERS):
        before = kept.get(adapter.get("slot"))
        for path in ("NAT", "DisabledModes/NAT"):
            nat = adapter.find(path)
            was = before.find(path) if before is not None else None
            if nat is not None:
                nat.set(_LOOPBACK, was.get(_LOOPBACK, unsaid) if was is not None else "false")


def _unsaid_loopback(version: str) -> str:
    """Before settings of version 1.19 (VirtualBox 7.0) each guest reached them."""
    numbers = [int(part) for part in re.findall(r"[0-9]{1,4}", version.partition("-")[0])]
    return "false" if numbers >= [1, 19] else "true"


def _put_access_back(machine: Element, original: Element) -> None:
    """Shared folders, and serial lines that wrote into files: what an import leaves out."""
    hardware, kept = machine.find("Hardware"), original.find("Hardware")
    if hardware is None or kept is None:
        return
    folders = kept.findall("SharedFolders/SharedFolder")
    if folders and hardware.find("SharedFolders") is None:
        shared = Element("SharedFolders")
        shared.extend(Element("SharedFolder", _some(each, _SHARED_FOLDER)) for each in folders)
        hardware.append(shared)
    lines = {port.get("slot"): port for port in kept.iterfind("UART/Port")}
    for port in hardware.iterfind("UART/Port"):
        if port.get("slot") in lines:
            port.attrib.update(_some(lines[port.get("slot")], _SERIAL))


def _some(element: Element, names: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in element.items() if name in names}


def _kinds(machine: Element, original: Element) -> tuple[tuple[DiskKind, ...], tuple[str, ...]]:
    """Disks that are to be attached as another kind; those that only settings make so are done."""
    attached = {slot_of(*found): found[1] for found in devices(machine, "HardDisk")}
    disks = {uuid_of(disk): disk for disk in machine.iterfind("MediaRegistry/HardDisks/HardDisk")}
    kinds, lost, reset = [], [], reset_slots(original)
    for slot, kind in _kinds_of(original).items():
        device = attached.get(slot)
        image = device.find("Image") if device is not None else None
        disk = disks.get(uuid_of(image)) if image is not None else None
        if device is None or disk is None or kind not in _BY_ATTACHING.keys() | _BY_SETTING:
            lost.append(
                f"its disk at {slot.controller} {slot.port} is an ordinary one, not {kind.lower()}"
            )
        elif kind in _BY_SETTING:
            disk.set("type", kind)
        else:
            options = tuple(
                f"--{name}=on"
                for name in ("nonrotational", "discard", "hotpluggable")
                if device.get(name) == "true"
            )
            by = _BY_ATTACHING[kind]
            kinds.append(DiskKind(slot, uuid_of(disk), by, options, auto_reset=slot in reset))
    return tuple(kinds), tuple(lost)


def _kinds_of(original: Element) -> dict[DriveSlot, str]:
    """The kinds of the disks that are not ordinary ones: the base of each says it."""
    kinds: dict[str, str] = {}
    waiting = [
        (disk, disk.get("type", "Normal"))
        for disk in original.iterfind("MediaRegistry/HardDisks/HardDisk")
    ]
    while waiting:
        disk, kind = waiting.pop()
        kinds[uuid_of(disk)] = kind
        waiting += [(child, kind) for child in disk.iterfind("HardDisk")]
    return {
        slot_of_disk(disk): kinds[disk.image]
        for disk in attached_disks(original)
        if kinds.get(disk.image, "Normal") != "Normal"
    }
