"""Machines and their parts: createvm, registervm, unregistervm, modifyvm, extra data, storage."""

import contextlib
import os
import time

from tests.support.simulated import settings
from tests.support.simulated.arguments import parse, required
from tests.support.simulated.errors import (
    PROGRESS,
    Reply,
    UsageError,
    VBoxError,
    failed_task,
    locked_by_session,
    unknown_machine,
)
from tests.support.simulated.state import Host, Machine, Medium

#: Characters that VirtualBox leaves in names of files; besides them those from U+00A0 to U+D7AF.
_SAFE = frozenset(" ()-._0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
#: Settings that are accepted and change the .vbox, but of which nothing more is simulated.
_SETTINGS = (
    "--cpus",
    "--usb-ohci",
    "--vm-execution-engine",
    "--nic1",
    "--audio-enabled",
    "--boot1",
)


def new_uuid() -> str:
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def find(host: Host, name: str, *, inaccessible: bool = False) -> Machine:
    """The machine of this UUID, else the first of this name.

    Raises `VBoxError` if there is none, or if its .vbox is gone.

    With `inaccessible`, one whose .vbox is gone will do.
    """
    if name.startswith("-"):
        raise UsageError(f"Unknown option: {name}")
    machine = host.machines.get(name.strip("{}").lower())
    machine = machine or next(
        (machine for machine in host.machines.values() if machine.name == name), None
    )
    if machine is None:
        raise unknown_machine(name)
    if not inaccessible and not os.path.exists(machine.settings):
        raise VBoxError(
            "The object functionality is limited",
            code="E_ACCESSDENIED",
            context="LockMachine(a->session, LockType_Shared)",
        )
    return machine


def file_name(name: str) -> str:
    """The name as VirtualBox makes a file name of it."""
    safe = "".join(
        character
        if character in _SAFE or "\xa0" <= character <= "\ud7af"
        else "_" * len(character.encode())
        for character in name
    )
    start, end = len(safe) - len(safe.lstrip(" ")), len(safe.rstrip(" "))
    safe = "_" * start + safe[start:end] + "_" * (len(safe) - end)
    safe = "_" + safe[1:] if safe.startswith((".", "-")) else safe
    return safe[:-1] + "_" if safe.endswith(".") else safe


def settings_path(host: Host, name: str, base_folder: str = "") -> str:
    """Where a new machine's .vbox goes. Raises `VBoxError` if there is one already."""
    safe = file_name(name)
    path = os.path.join(base_folder or host.machine_folder, safe, f"{safe}.vbox")
    if os.path.exists(path):
        text = f"Machine settings file '{path}' already exists"
        raise VBoxError(text, code="VBOX_E_FILE_ERROR", context="CreateMachine(...)")
    return path


def create_command(host: Host, words: list[str]) -> Reply:
    _, options = parse(
        words,
        values=("--name", "--ostype", "--basefolder", "--uuid", "--groups"),
        flags=("--register", "--default"),
    )
    name = options.get("name", "")
    if not name:
        raise UsageError("Parameter --name is required")
    path = settings_path(host, name, options.get("basefolder", ""))
    machine = Machine(options.get("uuid") or new_uuid(), name, path, time.time())
    machine.groups = _groups(options.get("groups", ""))
    os.makedirs(machine.folder, mode=0o700)
    settings.write_machine(host, machine)
    if "register" in options:
        add(host, machine)
    done = "created and registered" if "register" in options else "created"
    return Reply(
        f"Virtual machine '{name}' is {done}.\nUUID: {machine.uuid}\nSettings file: '{path}'\n"
    )


def _groups(text: str) -> list[str]:
    """Groups as --groups takes them; the group of all is written as none."""
    return [group for group in text.split(",") if group not in ("", "/")]


def add(host: Host, machine: Machine) -> None:
    """Registers the machine with the host."""
    host.machines[machine.uuid] = machine
    settings.write_host(host)


def register_command(host: Host, words: list[str]) -> Reply:
    from tests.support.simulated import registration

    path = required(words, 1)[0]
    if not os.path.exists(path):
        text = f"Runtime error opening '{path}' for reading VERR_FILE_NOT_FOUND (File not found.)."
        raise VBoxError(text, code="NS_ERROR_FAILURE", context="OpenMachine(...)")
    machine, media = registration.read(path)
    if machine.uuid in host.machines:
        text = f"Registered machine '{machine.name}' ('{path}') already has the same UUID"
        raise VBoxError(text, code="VBOX_E_OBJECT_NOT_FOUND", context="OpenMachine(...)")
    host.media.update({medium.uuid: medium for medium in media})
    add(host, machine)
    return Reply()


def unregister_command(host: Host, words: list[str]) -> Reply:
    """Takes the machine out.

    With --delete, its files as well, unless they are being exported: not all or nothing, like the
    real one.
    """
    plain, options = parse(words, flags=("--delete",))
    machine = find(host, required(plain, 1)[0], inaccessible="delete" not in options)
    if machine.runs:
        text = f"Cannot unregister the machine '{machine.name}' while it is locked"
        raise VBoxError(text, code="VBOX_E_INVALID_OBJECT_STATE", context="Unregister(...)")
    read = host.readers()
    used = {
        uuid
        for other in host.machines.values()
        if other is not machine
        for disk in _disks_of(other)
        for uuid in _chain_of(host, disk)
    }
    own = [
        uuid
        for uuid in dict.fromkeys(
            uuid for disk in _disks_of(machine) for uuid in _chain_of(host, disk)
        )
        if uuid not in used
    ]
    del host.machines[machine.uuid]
    settings.write_host(host)
    media = [host.media.pop(uuid) for uuid in own]
    _rewrite_parents(host, media)
    if "delete" not in options:
        return Reply()
    busy = next((medium for medium in media if medium.uuid in read), None)
    if busy:
        text = f"Medium '{busy.location}' is locked for reading by another task"
        code = "VBOX_E_INVALID_OBJECT_STATE"
        raise failed_task(
            "Machine delete failed",
            text,
            code=code,
            component="MediumWrap",
            handler="handleUnregisterVM",
            percent=30,
        )
    _delete_files(machine, media)
    return Reply(stderr=PROGRESS)


def _disks_of(machine: Machine) -> list[str]:
    return [
        *machine.disks.values(),
        *(disk for snapshot in machine.snapshots for disk in snapshot.disks.values()),
    ]


def _chain_of(host: Host, disk: str) -> list[str]:
    return [medium.uuid for medium in host.chain(disk)]


def _rewrite_parents(host: Host, gone: list[Medium]) -> None:
    """A linked clone's disk is listed in the .vbox of the machine it was cloned from."""
    for uuid in {medium.registry for medium in gone} & set(host.machines):
        settings.write_machine(host, host.machines[uuid])


def _delete_files(machine: Machine, media: list[Medium]) -> None:
    states = [machine.state_file, *(snapshot.state_file for snapshot in machine.snapshots)]
    paths = [os.path.join(machine.folder, state) for state in states if state]
    for path in [
        *(medium.location for medium in media),
        *paths,
        machine.settings,
        f"{machine.settings}-prev",
    ]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    for folder in (os.path.join(machine.folder, "Snapshots"), machine.folder):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def modify_command(host: Host, words: list[str]) -> Reply:
    plain, options = parse(
        words, values=("--name", "--memory", "--description", "--groups", *_SETTINGS)
    )
    machine = find(host, required(plain, 1)[0])
    refuse_running(machine)
    machine.memory = int(options.get("memory", machine.memory))
    machine.description = options.get("description", machine.description)
    machine.groups = _groups(options["groups"]) if "groups" in options else machine.groups
    if options.get("name", machine.name) != machine.name:
        _rename(host, machine, options["name"])
    settings.write_machine(host, machine)
    return Reply()


def refuse_running(machine: Machine) -> None:
    if machine.runs:
        raise locked_by_session(machine.name, "for a session (or being unlocked)")


def _rename(host: Host, machine: Machine, name: str) -> None:
    """Renames file and folder along, as VirtualBox does where the folder has the machine's name."""
    old_folder, old_name = machine.folder, file_name(machine.name)
    new_name = file_name(name)
    folder = (
        os.path.join(os.path.dirname(old_folder), new_name)
        if os.path.basename(old_folder) == old_name
        else old_folder
    )
    os.rename(old_folder, folder)
    path = os.path.join(folder, f"{new_name}.vbox")
    os.rename(os.path.join(folder, os.path.basename(machine.settings)), path)
    machine.name, machine.settings = name, path
    for medium in host.media.values():
        if medium.location.startswith(old_folder + "/"):
            medium.location = folder + medium.location.removeprefix(old_folder)
    settings.write_host(host)


def set_extra_command(host: Host, words: list[str]) -> Reply:
    name, key = required(words, 2)
    machine = find(host, name)
    value = words[2] if len(words) > 2 else ""
    machine.extra_data.pop(key, None)
    if value:
        machine.extra_data[key] = value
    settings.write_machine(host, machine)
    return Reply()


def get_extra_command(host: Host, words: list[str]) -> Reply:
    name, key = required(words, 2)
    value = find(host, name).extra_data.get(key)
    return Reply("No value set!\n" if value is None else f"Value: {value}\n")
