"""The VMs of this host, cheaply.

All of them: two VBoxManage calls and one small file a VM, whatever their number. One of them: one
call and its own file.

Which VMs there are and what they are called comes from VirtualBox's registry files; `list vms`
confirms that these are the files of the VirtualBox that answers. (`showvminfo` for each would take
0.1 s a VM, and names in lists can forge lines.)
"""

import logging
import os
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from shared.host.errors import VBoxManageError, VBoxManageTimeoutError
from shared.virtualbox.settings import (
    MachineSettings,
    Registry,
    SettingsError,
    parse_machine,
    parse_registry,
    read_file,
)
from shared.virtualbox.storage import Image, chain_of
from shared.virtualbox.vboxmanage import VBoxManage
from shared.virtualbox.vboxmanage_output import STOPPED, Listed

_log = logging.getLogger(__name__)
#: A VM may be registered or unregistered between the two looks; twice in a row means something
#: else.
_LOOKS: Final = 2


@dataclass(frozen=True, slots=True)
class Machine:
    """One VM as it is registered.

    `reason` says why it cannot be used; empty: it can. `name` and `settings` are None if the
    settings cannot be read. `chains` are its hard disks in the order of their attachment, each as
    the image it writes to followed by what that is based on, with absolute paths. `state` is what
    VirtualBox calls what it does; empty after a look at all VMs. `opened`: somebody has it open,
    in a dialog with its settings, or is just starting it; not known after a look at all VMs.
    """

    uuid: str
    name: str | None
    settings_file: str
    running: bool = False
    reason: str = ""
    settings: MachineSettings | None = None
    chains: tuple[tuple[Image, ...], ...] = ()
    state: str = ""
    opened: bool = False

    @property
    def words(self) -> str:
        """What it is called, for people, and its UUID, which it has even without a name."""
        called = (
            "a VM whose settings cannot be read," if self.name is None else f"the VM {self.name!r}"
        )
        return f"{called} {{{self.uuid}}}"

    @property
    def stopped(self) -> bool:
        """Whether it is off and nobody has it open, of one whose `state` is known."""
        return not self.running and not self.opened

    @property
    def accessible(self) -> bool:
        """Whether VirtualBox and we can read its settings. Its disk files may still be missing."""
        return not self.reason

    @property
    def images(self) -> tuple[Image, ...]:
        """Every image it stands on, each once."""
        return tuple({image.uuid: image for chain in self.chains for image in chain}.values())

    @property
    def nvram_file(self) -> str:
        """Where its firmware keeps its variables, if it has any.

        VirtualBox names the file only if it is not the usual one.
        """
        folder, file = os.path.split(self.settings_file)
        configured = self.settings.nvram if self.settings else ""
        return os.path.join(folder, configured or file.removesuffix(".vbox") + ".nvram")


def take_inventory(
    vboxmanage: VBoxManage, home: Path, sleep: Callable[[float], None]
) -> Mapping[str, Machine]:
    """All VMs of this user by UUID. `home` is VirtualBox's settings directory (`settings.home`).

    A VM whose settings are missing or damaged is in it, with the reason, and harms no other. Raises
    `VBoxManageError` if VBoxManage fails, or if what it lists contradicts the registry in `home`.
    """
    for _ in range(_LOOKS):
        listed = {vm.uuid: vm for vm in vboxmanage.list_vms()}
        running = vboxmanage.running()
        registry = _read_registry(home, sleep)
        if bool(listed) == bool(registry.machines) and (
            not listed or listed.keys() & registry.machines.keys()
        ):
            break
    else:
        raise VBoxManageError(
            (
                f"VBoxManage lists {len(listed)} VMs, but {home / 'VirtualBox.xml'} has "
                f"{len(registry.machines)} others"
            ),
            hint=(
                "is virtualbox.home (or VBOX_USER_HOME) right, and is this the user who owns "
                "the VMs?"
            ),
        )
    for uuid in listed.keys() - registry.machines.keys():
        _log.warning(
            (
                "VBoxManage lists a VM {%s} that is not registered: ignored (a VM's name can forge "
                "such a line)"
            ),
            uuid,
        )
    machines = [
        _read_machine(uuid, source, home, sleep) for uuid, source in registry.machines.items()
    ]
    return _complete(
        machines, registry.images, listed, _truly_running(vboxmanage, running, machines)
    )


def take_one(
    vboxmanage: VBoxManage, home: Path, sleep: Callable[[float], None], uuid: str
) -> Machine | None:
    """One VM as it is now; None if only a look at all of them can tell.

    That is so for one that cannot be used, and for one that stands on an image which the settings
    of another VM name.
    """
    try:
        info = vboxmanage.info(uuid)
        registry = _read_registry(home, sleep)
    except VBoxManageTimeoutError:
        raise
    except VBoxManageError:
        return None
    if uuid not in registry.machines or info.uuid != uuid:
        return None
    machine = _read_machine(uuid, registry.machines[uuid], home, sleep)
    running = frozenset(() if info.state in STOPPED else (uuid,))
    listed = {uuid: Listed(uuid, info.name)}
    found = _complete([machine], registry.images, listed, running)[uuid]
    return None if found.reason else replace(found, state=info.state, opened=bool(info.session))


def _read_registry(home: Path, sleep: Callable[[float], None]) -> Registry:
    path = home / "VirtualBox.xml"
    if not path.exists() and not path.with_name("VirtualBox.xml-prev").exists():
        return Registry({}, {})  # VirtualBox writes it with the first VM
    try:
        registry = parse_registry(read_file(str(path), sleep))
    except SettingsError as error:
        raise VBoxManageError(f"VirtualBox's registry {path} cannot be used: {error}") from None
    return Registry(registry.machines, _absolute(registry.images, home))


def _read_machine(uuid: str, source: str, home: Path, sleep: Callable[[float], None]) -> Machine:
    path = os.path.join(home, source)
    machine = Machine(uuid, None, path)
    try:
        settings = parse_machine(read_file(path, sleep))
    except SettingsError as error:
        return replace(machine, reason=f"its settings {path} cannot be used: {error}")
    settings = replace(settings, images=_absolute(settings.images, Path(path).parent))
    reason = (
        ""
        if settings.uuid == uuid
        else f"its settings {path} are those of another VM, {settings.uuid}"
    )
    return replace(machine, name=settings.name, settings=settings, reason=reason)


def _absolute(images: Mapping[str, Image], folder: Path) -> dict[str, Image]:
    return {
        uuid: image
        if image.format.lower() == "iscsi"
        else replace(image, location=os.path.join(folder, image.location))
        for uuid, image in images.items()
    }


def _truly_running(
    vboxmanage: VBoxManage, running: frozenset[str], machines: list[Machine]
) -> frozenset[str]:
    """With a name of several lines around, a line of the list proves nothing.

    VirtualBox is asked about each VM in it.
    """
    registered = running & {machine.uuid for machine in machines}
    if not any(len((machine.name or "").splitlines()) > 1 for machine in machines):
        return registered
    return frozenset(uuid for uuid in registered if not vboxmanage.info(uuid).stopped)


def _complete(
    machines: list[Machine],
    shared_images: Mapping[str, Image],
    listed: Mapping[str, Listed],
    running: frozenset[str],
) -> dict[str, Machine]:
    """Adds what can be said only with all VMs known.

    A linked clone stands on images that another VM's settings name.
    """
    images = dict(shared_images)
    for machine in machines:
        if machine.settings:
            images.update(machine.settings.images)
    complete = {}
    for machine in machines:
        known = ChainMap(dict(machine.settings.images) if machine.settings else {}, images)
        chains = [
            chain_of(uuid, known)
            for uuid in (machine.settings.attached if machine.settings else ())
        ]
        unknown = [chain[-1].parent for chain in chains if chain[-1].parent]
        found = tuple(chain for chain in chains if chain[0].uuid)
        reason = machine.reason or _contradiction(machine, listed.get(machine.uuid))
        if unknown and not reason:
            reason = f"its disk {{{unknown[0]}}} is in no media registry"
        complete[machine.uuid] = replace(
            machine, running=machine.uuid in running, reason=reason, chains=found
        )
    return complete


def _contradiction(machine: Machine, listed: Listed | None) -> str:
    if listed is None:
        return "VirtualBox does not list it"
    if listed.name is None and not f'"{machine.name}'.endswith(
        '"<inaccessible>'
    ):  # the last line of a name may look like that
        return "VirtualBox calls it inaccessible: `VBoxManage list --long vms` says why"
    return ""
