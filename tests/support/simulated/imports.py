"""VBoxManage import.

A machine from an appliance file, its disks checked against the manifest as far as the real one
does.
"""

import contextlib
import hashlib
import os
import struct
import tarfile
import time
import zlib
from xml.etree import ElementTree as ET

from tests.support.simulated import disks, settings
from tests.support.simulated.arguments import parse, required
from tests.support.simulated.errors import PROGRESS, Reply, VBoxError, failed_task
from tests.support.simulated.faults import Faults
from tests.support.simulated.machines import add, find, new_uuid, settings_path
from tests.support.simulated.ova import read_vmdk
from tests.support.simulated.registration import seconds
from tests.support.simulated.state import Host, Machine, Medium

_VALUES = ("--vsys", "--vmname", "--basefolder", "--settingsfile", "--options")
_OVF, _VBOX = "{*}", "{http://www.virtualbox.org/ovf/machine}"
_HANDLER = "handleImportAppliance"


def command(host: Host, words: list[str], faults: Faults) -> Reply:
    plain, options = parse(words, values=_VALUES, flags=("--dry-run",))
    path = required(plain, 1)[0]
    if faults.take("import_unreadable"):
        raise _unread(f"Error reading '{path}' (VERR_NET_IO_ERROR)")
    members, envelope = _read(path, disks="dry-run" not in options)
    _refuse(envelope, faults)
    system = envelope.find(f"{_OVF}VirtualSystem")
    title = system.findtext(f"{_OVF}Name", "") if system is not None else ""
    name = options.get("vmname") or _free_name(host, title)
    said = f'Disks:\n\nVirtual system 0:\n 1: VM name specified with --vmname: "{name}"\n'
    seen = f"{PROGRESS}Interpreting {path}...\nOK.\n"
    if "dry-run" in options:
        return Reply(said, seen)
    try:
        settings_file = options.get("settingsfile") or settings_path(
            host, name, options.get("basefolder", "")
        )
    except VBoxError as error:
        raise _failed(str(error.args[0][0]), said) from None
    machine = Machine(new_uuid(), name, settings_file, _state_change(system))
    os.makedirs(machine.folder, mode=0o700, exist_ok=True)
    for number, (member, data) in enumerate(
        (member, data) for member, data in members.items() if member.endswith(".vmdk")
    ):
        medium = _write_disk(
            machine,
            member,
            data,
            _megabytes(envelope, number),
            to_vdi="importtovdi" in options.get("options", ""),
        )
        host.media[medium.uuid] = medium
        machine.controllers["SATA"] = 4
        machine.disks[f"SATA-{number}-0"] = medium.uuid
    try:
        _check_digests(members, said)
    except VBoxError:
        for disk in machine.disks.values():
            os.unlink(host.media.pop(disk).location)
        raise
    settings.write_machine(host, machine)
    add(host, machine)
    return Reply(f"{said}Successfully imported the appliance.\n", seen + PROGRESS)


def _refuse(envelope: ET.Element, faults: Faults) -> None:
    """What the real one does not import, told by the description alone (measured)."""
    if faults.host.import_refuses:
        raise _unread(faults.host.import_refuses)
    for annotation in envelope.iterfind(f".//{_OVF}Annotation"):
        if len((annotation.text or "").encode()) > 8192:
            raise _unread(
                "Element 'Annotation' exceeds limit of 8192 bytes VERR_BUFFER_OVERFLOW "
                "(Buffer too small to save result.)"
            )
    controllers = [
        item.findtext("{*}InstanceID", "")
        for item in envelope.iterfind(".//{*}Item")
        if item.findtext("{*}ResourceType") == "6"
    ]
    for number, disk in enumerate(envelope.iterfind(".//{*}StorageItem")):
        parent = disk.findtext("{*}Parent", "")
        if parent in controllers[1:]:
            file = envelope.findall("{*}References/{*}File")[number]
            name = next(value for key, value in file.items() if key.endswith("}href"))
            text = (
                f'Cannot find storage controller with OVF instance ID "{parent}" to which '
                f'medium "{name}" should be attached'
            )
            raise VBoxError(text, code="NS_ERROR_FAILURE", component="ApplianceWrap")


def _unread(text: str) -> VBoxError:
    code, component = "VBOX_E_FILE_ERROR", "ApplianceWrap"
    return failed_task(
        "Appliance read failed", text, code=code, component=component, handler=_HANDLER
    )


def _failed(text: str, said: str = "") -> VBoxError:
    code, component = "VBOX_E_FILE_ERROR", "MediumWrap"
    return failed_task(
        "Appliance import failed", text, code=code, component=component, handler=_HANDLER, said=said
    )


def _read(path: str, *, disks: bool) -> tuple[dict[str, bytes], ET.Element]:
    """The members, as far as they go, and the .ovf. Raises `VBoxError`.

    Without `disks` those are passed over, as VirtualBox does for a dry run.
    """
    members: dict[str, bytes] = {}
    if not os.path.exists(path):
        text = f"Error opening the OVA file '{path}' (VERR_FILE_NOT_FOUND)"
        code, component = "VBOX_E_OBJECT_NOT_FOUND", "ApplianceWrap"
        raise failed_task(
            "Appliance read failed", text, code=code, component=component, handler=_HANDLER
        )
    with (
        open(path, "rb") as file,
        contextlib.suppress(tarfile.ReadError),
        tarfile.open(path) as archive,
    ):
        for entry in archive:
            file.seek(entry.offset_data)
            wanted = disks or not entry.name.endswith(".vmdk")
            members[entry.name] = file.read(entry.size) if wanted else b""
    try:
        return members, ET.fromstring(
            next(data for name, data in members.items() if name.endswith(".ovf"))
        )
    except (StopIteration, ET.ParseError) as error:
        text = f"Error reading '{path}': {error}"
        raise failed_task(
            "Appliance read failed",
            text,
            code="VBOX_E_FILE_ERROR",
            component="ApplianceWrap",
            handler=_HANDLER,
        ) from None


def _free_name(host: Host, title: str) -> str:
    name, number = title, 0
    while True:
        try:
            find(host, name)
        except VBoxError:
            return name
        number += 1
        name = f"{title} {number}"


def _state_change(system: ET.Element | None) -> float:
    """An imported machine keeps the time of the one that was exported (measured)."""
    machine = system.find(f"{_VBOX}Machine") if system is not None else None
    text = machine.get("lastStateChange", "") if machine is not None else ""
    return seconds(text) if text else time.time()


def _megabytes(envelope: ET.Element, number: int) -> int:
    disk = envelope.findall(f"{_OVF}DiskSection/{_OVF}Disk")[number]
    return (
        int(next(value for key, value in disk.items() if key.endswith("}capacity"))) // disks.BLOCK
    )


def _write_disk(machine: Machine, member: str, data: bytes, mib: int, *, to_vdi: bool) -> Medium:
    """The disk, as the VMDK that it came as, or as a VDI."""
    uuid = new_uuid()
    path = os.path.join(
        machine.folder, member.removesuffix(".vmdk") + (".vdi" if to_vdi else ".vmdk")
    )
    try:
        grains = list(read_vmdk(data))
    except (zlib.error, struct.error) as error:
        name = "VERR_EOF" if isinstance(error, struct.error) else "VERR_ZIP_CORRUPTED"
        text = (
            f"Could not create the imported medium '{path}'.\nVMDK: Failed to read data from "
            f"compressed image '/{member}' ({name})"
        )
        raise _failed(text) from None
    if to_vdi:
        disks.create(path, uuid, mib)
        for place, grain in grains:
            disks.write(path, place // disks.BLOCK, grain, place % disks.BLOCK)
    else:
        with open(path, "xb") as file:
            file.write(data)
    return Medium(uuid, path, mib, "VDI" if to_vdi else "VMDK", registry=machine.uuid)


def _check_digests(members: dict[str, bytes], said: str) -> None:
    """Only what the manifest names is checked, and only if there is one."""
    manifest = next((data for name, data in members.items() if name.endswith(".mf")), b"").decode(
        "ascii", "replace"
    )
    for line in manifest.splitlines():
        kind, _, rest = line.partition(" (")
        name, _, digest = rest.partition(") = ")
        if (
            kind in ("SHA1", "SHA256")
            and hashlib.new(kind, members.get(name, b"")).hexdigest() != digest
        ):
            raise _failed(f"Digest mismatch (VERR_NOT_EQUAL): '{name}'", said)
