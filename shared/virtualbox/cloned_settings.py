"""The settings of a clone that is only exported: those of its original, with disks of its own.

Pure: of the bytes that VirtualBox wrote, others are made. VirtualBox checks them when the clone is
registered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shared.host.xml import Element
from shared.virtualbox.settings import SettingsError
from shared.virtualbox.settings_writing import parse_settings, render_settings, set_name
from shared.virtualbox.storage import controllers_of, uuid_of

#: What a machine does, or is called, not what it is.
_STATE: Final = frozenset(
    {
        *("lastStateChange", "stateFile", "aborted", "currentSnapshot", "currentStateModified"),
        *("snapshotFolder", "directoryIncludesUUID", "nameSync"),
    }
)
_LEFT: Final = frozenset({"Snapshot", "MediaRegistry", "Groups"})


@dataclass(frozen=True, slots=True)
class ClonedImage:
    """A clone of an image: its own UUID, and its file."""

    uuid: str
    file: str


def cloned_settings(
    data: bytes,
    chains: Sequence[Sequence[str]],
    images: Mapping[str, ClonedImage],
    *,
    name: str,
    uuid: str,
) -> bytes:
    """The settings of a clone.

    `chains` are the UUIDs of its original's images, leaf first, `images` their clones. Drives for
    other media are empty, as they are in an export. Raises `SettingsError`.
    """
    tree = parse_settings(data)
    machine = tree.find("Machine")
    if machine is None:
        raise SettingsError("it describes no machine")
    original = uuid_of(machine)
    for attribute in _STATE & set(machine.keys()):
        del machine.attrib[attribute]
    for child in [each for each in machine if each.tag in _LEFT]:
        machine.remove(child)
    machine.set("uuid", f"{{{uuid}}}")
    set_name(machine, name)
    for hardware in machine.iterfind("Hardware"):
        if not hardware.get("uuid"):  # what its guest takes for its serial number
            hardware.set("uuid", f"{{{original}}}")
    machine.insert(0, _registry(chains, images))
    _attach(machine, images)
    return render_settings(tree)


def _registry(chains: Sequence[Sequence[str]], images: Mapping[str, ClonedImage]) -> Element:
    registry, disks = Element("MediaRegistry"), Element("HardDisks")
    made: dict[str, Element] = {}
    for chain in chains:
        above = disks
        for uuid in reversed(chain):
            if uuid not in made:
                words = {"location": images[uuid].file, "format": "VDI"}
                words |= {"type": "Normal"} if above is disks else {}
                made[uuid] = Element("HardDisk", {"uuid": f"{{{images[uuid].uuid}}}", **words})
                above.append(made[uuid])
            above = made[uuid]
    registry.append(disks)
    return registry


def _attach(machine: Element, images: Mapping[str, ClonedImage]) -> None:
    """Puts the clones in the places of the images, and empties all other drives."""
    for controller in controllers_of(machine):
        for device in controller.iterfind("AttachedDevice"):
            for medium in list(device):
                if device.get("type") != "HardDisk" or medium.tag != "Image":
                    device.remove(medium)
                elif uuid_of(medium) in images:
                    medium.set("uuid", f"{{{images[uuid_of(medium)].uuid}}}")
                else:
                    raise SettingsError("it has other disks than a moment ago")
