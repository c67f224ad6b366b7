"""An oracle of its own for settings of VMs: `.vbox` files read without the product's readers."""

import hashlib
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.support.virtualbox import RealVm

_NAMESPACE = "{http://www.virtualbox.org/}"
#: What differs between any two VMs, or is another thing than a setting.
_NOT_A_SETTING = {
    "Machine": {
        *("uuid", "name", "lastStateChange", "snapshotFolder", "currentStateModified"),
        *("currentSnapshot", "stateFile", "aborted"),
    },
    "Image": {"uuid"},
    "Hardware": {"uuid"},
    "NVRAM": {"path"},
}
#: What VirtualBox leaves out when it writes a file the next time.
_BY_DEFAULT = {("localhost-reachable", "false")}
_IDENTIFYING = ("slot", "name", "id", "position", "port", "device")
_PASSED_OVER = {"MediaRegistry", "Snapshot", "GuestProperties", "NVRAM"}


def settings_of(path: Path) -> set[str]:
    """One line for each element of a machine: where it is, its attributes, its text."""
    machine = ET.parse(path).getroot().find(f"{_NAMESPACE}Machine")
    assert machine is not None, path
    lines: set[str] = set()

    def walk(element: ET.Element, above: str) -> None:
        tag = element.tag.removeprefix(_NAMESPACE)
        if tag in _PASSED_OVER:
            return
        kept = sorted(
            (name, value)
            for name, value in element.items()
            if name not in _NOT_A_SETTING.get(tag, ()) and (name, value) not in _BY_DEFAULT
        )
        own = [element.get(name, "") for name in _IDENTIFYING if element.get(name)]
        here = f"{above}/{tag}{own}" if own and above else f"{above}/{tag}"
        text = element.text if element.text and element.text.strip() else ""
        lines.add(f"{here} {kept} {text}")
        for child in element:
            walk(child, here)

    walk(machine, "")
    return lines


def kinds_of_disks(path: Path) -> dict[str, str]:
    """Controller and port of each hard disk, and its kind, which its base says."""
    root = ET.parse(path).getroot()
    bases: dict[str, str] = {}
    for base in root.iterfind(f".//{_NAMESPACE}HardDisks/{_NAMESPACE}HardDisk"):
        for disk in (base, *base.iterfind(f".//{_NAMESPACE}HardDisk")):
            bases[disk.get("uuid", "")] = base.get("type", "")
    return {place: bases.get(image, "") for place, image in _attached(root).items()}


def resets_of(path: Path) -> set[str]:
    """Where the disks are whose images are emptied when the VM starts."""
    root = ET.parse(path).getroot()
    reset = {
        disk.get("uuid", "")
        for disk in root.iter(f"{_NAMESPACE}HardDisk")
        if disk.get("autoReset") == "true"
    }
    return {place for place, image in _attached(root).items() if image in reset}


def _attached(root: ET.Element) -> dict[str, str]:
    """Controller and port of each hard disk of a VM as it is now, and its image."""
    found = {}
    for controller in root.iterfind(f".//{_NAMESPACE}Hardware//{_NAMESPACE}StorageController"):
        for device in controller:
            image = device.find(f"{_NAMESPACE}Image")
            if device.get("type") == "HardDisk" and image is not None:
                place = f"{controller.get('name')}-{device.get('port')}-{device.get('device')}"
                found[place] = image.get("uuid", "")
    return found


def disks_of(vm: RealVm, *, beyond: int = 0) -> dict[str, str]:
    """The digest of all that a guest would read from each hard disk, by controller and port.

    Only of what is `beyond` so many bytes.
    """
    text = vm.host.run("showvminfo", vm.uuid, "--machinereadable").stdout
    found = {}
    for place in kinds_of_disks(vm.settings):
        match = re.search(rf'^"{re.escape(place)}"="(.*)"$', text, re.MULTILINE)
        assert match, place
        command = [vm.host.vboxmanage, "mediumio", f"--disk={match[1]}", "cat"]
        command += [f"--offset={beyond}"] if beyond else []
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True
        )
        found[place] = hashlib.sha256(done.stdout).hexdigest()
    return found
