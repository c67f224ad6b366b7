"""Reads VirtualBox's own settings files.

The registry `VirtualBox.xml` and the `.vbox` of each VM. Pure but for reading the file.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host.configuration import WISH
from shared.host.errors import ConfigurationError
from shared.host.xml import Element, XmlError, parse_xml
from shared.virtualbox.storage import (
    AttachedDisk,
    FilledDrive,
    Image,
    VmSnapshot,
    attached_disks,
    filled_drives,
    images_of,
    snapshots_of,
    uuid_of,
)

#: Larger than any settings file; what is larger is not read.
MAXIMUM_BYTES: Final = 32 * 2**20

#: Attributes of <Machine> that say what it does, not what it is. The fingerprint has them on its
#: own, or has no use for them.
_STATE_ATTRIBUTES: Final = re.compile(
    rb' (?:lastStateChange|stateFile|aborted|currentSnapshot|currentStateModified)="[^"]*"'
)
#: VirtualBox replaces a settings file by two renames: between them it is not there.
_REPLACE_ATTEMPTS: Final = 5
_REPLACE_SECONDS: Final = 0.05


class SettingsError(Exception):
    """A settings file cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Registry:
    """What VirtualBox.xml says.

    The settings file of each VM by UUID, and the images that belong to no VM.
    """

    machines: Mapping[str, str]
    images: Mapping[str, Image]


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """What a .vbox says.

    `disks` are its hard disks as they are now, not those of snapshots.

    `snapshots` are all of them. Lists of VBoxManage have the same, but the name of a snapshot can
    forge lines there.

    `digest` covers the settings as VirtualBox wrote them, without the power state, the time of its
    last change, and the version of VirtualBox that wrote them: a file that was rewritten without a
    change has the same digest.
    """

    uuid: str
    name: str
    last_state_change: str
    state_file: str
    aborted: bool
    snapshot: str
    nvram: str
    digest: str
    disks: tuple[AttachedDisk, ...]
    images: Mapping[str, Image]
    #: Bytes of memory, that of the screen included unless it is VirtualBox's default: what a
    #: running VM writes when it is saved, at most.
    memory: int = 0
    #: Where VirtualBox writes that: absolute, or below the VM's folder.
    snapshot_folder: str = ""
    snapshots: tuple[VmSnapshot, ...] = ()
    description: str = ""
    #: The groups that it is in, like `/office/web`. VirtualBox writes none for the group of all.
    groups: tuple[str, ...] = ()
    #: What its extra data say of backups (`shared.host.configuration.WISH`); empty: nothing.
    wish: str = ""
    #: Its DVD and floppy drives that are not empty.
    drives: tuple[FilledDrive, ...] = ()
    #: Whether it has PCI devices of its host.
    has_pci_devices: bool = False

    @property
    def attached(self) -> tuple[str, ...]:
        """The UUIDs of the images that its hard disks write to."""
        return tuple(disk.image for disk in self.disks)


def home(configured: Path, environment: Mapping[str, str], platform: str = sys.platform) -> Path:
    """VirtualBox's settings directory.

    As configured (empty: not), else $VBOX_USER_HOME, else where VirtualBox itself looks. That is,
    measured on Linux: $XDG_CONFIG_HOME/VirtualBox, else ~/.VirtualBox if it is there, else
    ~/.config/VirtualBox, where ~ of root is what the password database says, whatever $HOME is.
    Raises `ConfigurationError` for a user without a home directory.
    """
    if configured != Path():
        return configured
    if environment.get("VBOX_USER_HOME"):
        return Path(environment["VBOX_USER_HOME"]).absolute()
    try:
        user = (
            Path("~root").expanduser()
            if os.geteuid() == 0
            else Path(environment.get("HOME") or Path.home())
        )
    except RuntimeError:
        raise ConfigurationError(
            "this user has no home directory, where VirtualBox's settings would be",
            hint="set HOME, or virtualbox.home in the configuration",
        ) from None
    if platform == "darwin":
        return user / "Library" / "VirtualBox"
    if environment.get("XDG_CONFIG_HOME"):
        return Path(environment["XDG_CONFIG_HOME"]) / "VirtualBox"
    legacy = user / ".VirtualBox"
    return legacy if legacy.is_dir() else user / ".config" / "VirtualBox"


def read_file(path: str, sleep: Callable[[float], None]) -> bytes:
    """The bytes of a settings file.

    Raises `SettingsError`; a file that VirtualBox is just replacing is waited for.
    """
    for attempt in range(_REPLACE_ATTEMPTS):
        try:
            with open(path, "rb") as file:
                data = file.read(MAXIMUM_BYTES + 1)
        except FileNotFoundError:
            if (
                not (os.path.exists(f"{path}-tmp") or os.path.exists(f"{path}-prev"))
                or attempt == _REPLACE_ATTEMPTS - 1
            ):
                raise SettingsError(f"{path} is not there") from None
            sleep(_REPLACE_SECONDS)
        except OSError as error:
            raise SettingsError(f"cannot read {path}: {error.strerror}") from None
        else:
            if len(data) > MAXIMUM_BYTES:
                raise SettingsError(f"{path} is larger than {MAXIMUM_BYTES >> 20} MiB")
            return data
    raise AssertionError("unreachable")


def parse_registry(data: bytes) -> Registry:
    """Reads VirtualBox.xml. Raises `SettingsError`."""
    tree = _parse(data)
    entries = (entry for entry in tree.iterfind("Global/MachineRegistry/MachineEntry"))
    machines = {uuid_of(entry): entry.get("src", "") for entry in entries if uuid_of(entry)}
    return Registry(machines, images_of(tree.find("Global/MediaRegistry")))


def parse_machine(data: bytes) -> MachineSettings:
    """Reads a .vbox. Raises `SettingsError`."""
    tree = _parse(data)
    machine = tree.find("Machine")
    if machine is None:
        raise SettingsError(
            "its settings are encrypted"
            if tree.find("MachineEncrypted") is not None
            else "it describes no machine"
        )
    if not uuid_of(machine) or machine.get("name") is None:
        raise SettingsError("it has no UUID or no name")
    firmware = machine.find("Hardware/Firmware/NVRAM")
    nvram = firmware if firmware is not None else machine.find("Hardware/BIOS/NVRAM")
    return MachineSettings(
        uuid=uuid_of(machine),
        name=machine.get("name", ""),
        last_state_change=machine.get("lastStateChange", ""),
        state_file=machine.get("stateFile", ""),
        aborted=machine.get("aborted") in {"true", "1"},
        snapshot=uuid_of(machine, "currentSnapshot"),
        nvram=nvram.get("path", "") if nvram is not None else "",
        digest=_digest(data),
        disks=tuple(attached_disks(machine)),
        images=images_of(machine.find("MediaRegistry")),
        memory=_mebibytes(machine, "Memory", "RAMSize")
        + _mebibytes(machine, "Display", "VRAMSize"),
        snapshot_folder=machine.get("snapshotFolder", ""),
        snapshots=tuple(snapshots_of(machine)),
        description=machine.findtext("Description") or "",
        groups=tuple(group.get("name", "") for group in machine.iterfind("Groups/Group")),
        wish=_extra_data(machine, WISH),
        drives=tuple(filled_drives(machine)),
        has_pci_devices=machine.find("Hardware/HostPci/Devices/Device") is not None,
    )


def _extra_data(machine: Element, name: str) -> str:
    items = machine.iterfind("ExtraData/ExtraDataItem")
    return next((item.get("value", "") for item in items if item.get("name") == name), "")


def _mebibytes(machine: Element, element: str, attribute: str) -> int:
    found = machine.find(f"Hardware/{element}")
    stated = found.get(attribute, "") if found is not None else ""
    return int(stated) << 20 if stated.isascii() and stated.isdigit() and len(stated) < 10 else 0


def _digest(data: bytes) -> str:
    """From <Machine on: what is before it names the version of VirtualBox that wrote the file."""
    _, tag, rest = data.partition(b"<Machine")
    if not tag:
        raise SettingsError("it is not in UTF-8")
    settings = tag + rest
    end = settings.find(b">")
    digest = hashlib.sha256(_STATE_ATTRIBUTES.sub(b"", settings[:end]))
    digest.update(settings[end:])
    return digest.hexdigest()


def _parse(data: bytes) -> Element:
    try:
        return parse_xml(data, limit=MAXIMUM_BYTES)
    except XmlError as error:
        raise SettingsError(f"it {error}") from None
