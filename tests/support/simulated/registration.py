"""Reads a .vbox back.

For `registervm` of a machine that was unregistered, or came from another host.
"""

import os
import time
from calendar import timegm
from xml.etree import ElementTree as ET

from tests.support.simulated import disks
from tests.support.simulated.state import Machine, Medium, Snapshot

_NAMESPACE = "{http://www.virtualbox.org/}"


def read(path: str) -> tuple[Machine, list[Medium]]:
    """The machine and the media of its registry."""
    element = ET.parse(path).getroot().find(f"{_NAMESPACE}Machine")
    assert element is not None, path
    changed = seconds(element.get("lastStateChange", ""))
    machine = Machine(
        _uuid(element.get("uuid", "")), element.get("name", ""), path, changed, int(changed)
    )
    machine.written_aborted = element.get("aborted") == "true"
    machine.state_file = element.get("stateFile", "")
    machine.current_snapshot = _uuid(element.get("currentSnapshot", ""))
    machine.description = element.findtext(f"{_NAMESPACE}Description", "")
    for item in element.findall(f"{_NAMESPACE}ExtraData/{_NAMESPACE}ExtraDataItem"):
        machine.extra_data[item.get("name", "")] = item.get("value", "")
    for group in element.findall(f"{_NAMESPACE}Groups/{_NAMESPACE}Group"):
        machine.groups.append(group.get("name", ""))
    for controller in element.iter(f"{_NAMESPACE}StorageController"):
        machine.kinds[controller.get("name", "")] = controller.get("type", "")
    machine.memory, machine.controllers, machine.disks = _hardware(element)
    machine.drives = _drives(element)
    for snapshot in element.findall(f"{_NAMESPACE}Snapshot"):
        machine.snapshots += _snapshots(snapshot, "")
    media = [
        medium
        for child in element.findall(f"{_NAMESPACE}MediaRegistry/{_NAMESPACE}HardDisks/*")
        for medium in _media(child, machine, "")
    ]
    machine.settle()
    return machine, media


def _uuid(text: str) -> str:
    return text.strip("{}").lower()


def seconds(text: str) -> float:
    """The inverse of `settings.moment`; now, where the settings do not say."""
    if not text:
        return float(int(time.time()))
    return float(timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))


def _hardware(element: ET.Element) -> tuple[int, dict[str, int], dict[str, str]]:
    memory = element.find(f"{_NAMESPACE}Hardware/{_NAMESPACE}Memory")
    controllers, attached = {}, {}
    for controller in element.iterfind(
        f"{_NAMESPACE}Hardware/{_NAMESPACE}StorageControllers/{_NAMESPACE}StorageController"
    ):
        name = controller.get("name", "")
        controllers[name] = int(controller.get("PortCount", "1"))
        for device in controller.iterfind(f"{_NAMESPACE}AttachedDevice"):
            image = device.find(f"{_NAMESPACE}Image")
            if device.get("type") == "HardDisk" and image is not None:
                attached[f"{name}-{device.get('port')}-{device.get('device')}"] = _uuid(
                    image.get("uuid", "")
                )
    return int(memory.get("RAMSize", "128")) if memory is not None else 128, controllers, attached


def _drives(element: ET.Element) -> dict[str, str]:
    """What is in each CD drive; empty: nothing."""
    places = {
        _uuid(image.get("uuid", "")): image.get("location", "")
        for image in element.iterfind(f"{_NAMESPACE}MediaRegistry/{_NAMESPACE}DVDImages/*")
    }
    return {
        f"{controller.get('name')}-{device.get('port')}-{device.get('device')}": next(
            (places.get(_uuid(image.get("uuid", "")), "") for image in device), ""
        )
        for controller in element.iterfind(
            f"{_NAMESPACE}Hardware/{_NAMESPACE}StorageControllers/{_NAMESPACE}StorageController"
        )
        for device in controller.iterfind(f"{_NAMESPACE}AttachedDevice")
        if device.get("type") == "DVD"
    }


def _snapshots(element: ET.Element, parent: str) -> list[Snapshot]:
    uuid = _uuid(element.get("uuid", ""))
    snapshot = Snapshot(
        uuid, element.get("name", ""), parent, seconds(element.get("timeStamp", ""))
    )
    snapshot.description = element.findtext(f"{_NAMESPACE}Description", "")
    snapshot.state_file = element.get("stateFile", "")
    snapshot.disks = _hardware(element)[2]
    below = element.findall(f"{_NAMESPACE}Snapshots/{_NAMESPACE}Snapshot")
    return [snapshot, *(inner for child in below for inner in _snapshots(child, uuid))]


def _media(element: ET.Element, machine: Machine, parent: str) -> list[Medium]:
    location = os.path.join(machine.folder, element.get("location", ""))
    kind = element.get("format", "VDI")
    mib = disks.opened(location).mib if kind == "VDI" and os.path.exists(location) else 0
    medium = Medium(_uuid(element.get("uuid", "")), location, mib, kind, parent, machine.uuid)
    medium.kind = element.get("type", "Normal")
    return [medium, *(inner for child in element for inner in _media(child, machine, medium.uuid))]
