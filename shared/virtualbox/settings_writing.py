"""Writes a VM's settings file anew, while VirtualBox does not know the VM.

Pure: of the bytes that VirtualBox wrote, others are made. VirtualBox checks them when the VM is
registered.
"""

from xml.etree.ElementTree import tostring

from shared.host.xml import WRITABLE_DEPTH, Element, XmlError, parse_xml
from shared.virtualbox.settings import MAXIMUM_BYTES, SettingsError


def parse_settings(data: bytes) -> Element:
    """The tree of a settings file, whose `Machine` is certainly there. Raises `SettingsError`."""
    try:
        tree = parse_xml(data, limit=MAXIMUM_BYTES, depth=WRITABLE_DEPTH)
    except XmlError as error:
        raise SettingsError(f"it {error}") from None
    if tree.find("Machine") is None:
        raise SettingsError("it describes no machine")
    return tree


def render_settings(tree: Element) -> bytes:
    """The bytes of a settings file. Line ends in texts come back as they were."""
    text = tostring(tree, encoding="unicode").replace("\r", "&#13;")
    return f'<?xml version="1.0"?>\n{text}\n'.encode()


def renamed(data: bytes, name: str) -> bytes:
    """The settings of the same VM, called `name`. Raises `SettingsError`."""
    tree = parse_settings(data)
    for machine in tree.findall("Machine"):
        set_name(machine, name)
    return render_settings(tree)


def set_name(machine: Element, name: str) -> None:
    """Gives a `<Machine>` another name.

    Its firmware then keeps its variables where it does without being told: beside the settings
    file, under its name.
    """
    machine.set("name", name)
    for path in ("Hardware/Firmware", "Hardware/BIOS"):
        for firmware in machine.findall(path):
            for nvram in firmware.findall("NVRAM"):
                firmware.remove(nvram)
