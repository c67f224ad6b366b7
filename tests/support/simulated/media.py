"""Disks as VirtualBox knows them: media, their locks, and where they are attached."""

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass

from tests.support.simulated import disks, settings
from tests.support.simulated.arguments import parse, required
from tests.support.simulated.errors import PROGRESS, Reply, UsageError, VBoxError, failed_task
from tests.support.simulated.machines import find, new_uuid
from tests.support.simulated.state import Host, Medium


def controller_command(host: Host, words: list[str]) -> Reply:
    plain, options = parse(words, values=("--name", "--add", "--portcount", "--controller"))
    machine = find(host, required(plain, 1)[0])
    machine.controllers[options["name"]] = int(options.get("portcount", "1"))
    machine.kinds[options["name"]] = options.get("controller", "IntelAhci")
    settings.write_machine(host, machine)
    return Reply()


def attach_command(host: Host, words: list[str]) -> Reply:
    plain, options = parse(
        words, values=("--storagectl", "--port", "--device", "--type", "--medium", "--mtype")
    )
    machine = find(host, required(plain, 1)[0])
    controller = options.get("storagectl", "")
    if controller not in machine.controllers:
        raise VBoxError(f"Could not find a controller named '{controller}'")
    if machine.state == "saved":
        text = "The machine is not mutable or running (state is Saved)"
        code, component = "VBOX_E_INVALID_VM_STATE", "SessionMachine"
        raise VBoxError(text, code=code, component=component, context="MountMedium(...)")
    slot = f"{controller}-{options.get('port', '0')}-{options.get('device', '0')}"
    if options.get("type") == "dvddrive":
        image = options.get("medium", "")
        machine.drives[slot] = "" if image == "emptydrive" else image
    elif options.get("medium") == "none":
        if slot not in machine.disks:
            text = (
                f"No storage device attached to device slot 0 on port "
                f"{options.get('port', '0')} of controller '{controller}'"
            )
            raise VBoxError(
                text,
                code="VBOX_E_OBJECT_NOT_FOUND",
                component="SessionMachine",
                context="DetachDevice(...)",
            )
        del machine.disks[slot]
    else:
        medium = find_medium(host, options.get("medium", ""))
        host.media.setdefault(medium.uuid, medium).registry = medium.registry or machine.uuid
        medium.kind = options.get("mtype", medium.kind).capitalize()
        machine.disks[slot] = medium.uuid
    settings.write_machine(host, machine)
    return Reply()


def find_medium(host: Host, name: str) -> Medium:
    """The medium of this UUID or at this place; a VDI that no machine has yet is opened.

    Raises `VBoxError` if there is none.
    """
    known = host.media.get(name.lower()) or next(
        (medium for medium in host.media.values() if medium.location == name), None
    )
    if known:
        return known
    if not os.path.exists(name):
        text = f"Could not find file for the medium '{name}' (VERR_FILE_NOT_FOUND)"
        raise VBoxError(
            text, code="VBOX_E_FILE_ERROR", component="MediumWrap", context="OpenMedium(...)"
        )
    return disks.opened(name)


def create_command(host: Host, words: list[str]) -> Reply:
    plain, options = parse(words, values=("--filename", "--size", "--format", "--variant"))
    if plain != ["disk"] or "filename" not in options or "size" not in options:
        raise UsageError("Parameters --filename and --size are required")
    path, uuid = options["filename"], new_uuid()
    try:
        disks.create(path, uuid, int(options["size"]))
    except FileExistsError:
        text = (
            f"Could not create the medium storage unit '{path}'.\nVDI: cannot create image "
            f"'{path}' (VERR_ALREADY_EXISTS)"
        )
        code = "VBOX_E_FILE_ERROR"
        raise failed_task(
            "Failed to create medium",
            text,
            code=code,
            component="MediumWrap",
            handler="handleCreateMedium",
        ) from None
    host.media[uuid] = Medium(uuid, path, int(options["size"]))
    return Reply(f"Medium created. UUID: {uuid}\n", PROGRESS)


def lock_state(host: Host, medium: Medium, readers: set[str]) -> str:
    """`locked write` while its machine runs, `locked read` while it is exported, or is the base of
    a running machine's disk.
    """
    running = [
        disk
        for machine in host.machines.values()
        if machine.runs
        for disk in machine.disks.values()
    ]
    if medium.uuid in running:
        return "locked write"
    return (
        "locked read"
        if medium.uuid in readers or any(medium in host.chain(disk) for disk in running)
        else "created"
    )


def show_command(host: Host, words: list[str]) -> Reply:
    kind, name = required(words, 2)
    if kind != "disk":
        raise UsageError(f"Invalid parameter '{kind}'")
    medium = find_medium(host, name)
    state, problem = lock_state(host, medium, host.readers()), ""
    try:
        disks.check_readable(medium)
    except VBoxError as error:
        state, problem = "inaccessible", "Access Error:   " + str(error.args[0][0]) + "\n"
    size = os.path.getsize(medium.location) >> 20 if not problem else 0
    kind, base = ("differencing", "differencing") if medium.parent else ("base", "dynamic")
    lines = [
        f"UUID:           {medium.uuid}",
        f"Parent UUID:    {medium.parent or 'base'}",
        f"State:          {state}",
        f"{problem}Type:           normal ({kind})",
        *(["Auto-Reset:     off"] if medium.parent else []),
        f"Location:       {medium.location}",
        f"Storage format: {medium.format}",
        f"Format variant: {base} default",
        f"Capacity:       {medium.mib} MBytes",
        f"Size on disk:   {size} MBytes",
        "Encryption:     disabled",
        "Property:       AllocationBlockSize=1048576",
        *_listed("In use by VMs:  ", _users(host, medium)),
        *_listed("Child UUIDs:    ", [child.uuid for child in host.children(medium.uuid)]),
    ]
    return Reply("\n".join(lines) + "\n")


def _listed(title: str, entries: list[str]) -> list[str]:
    return [
        f"{' ' * len(title) if number else title}{entry}" for number, entry in enumerate(entries)
    ]


def _users(host: Host, medium: Medium) -> list[str]:
    users = []
    for machine in host.machines.values():
        snapshots = [entry for entry in machine.snapshots if medium.uuid in entry.disks.values()]
        if snapshots or medium.uuid in machine.disks.values():
            text = "".join(f" [{entry.name} (UUID: {entry.uuid})]" for entry in snapshots)
            users.append(f"{machine.name} (UUID: {machine.uuid}){text}")
    return users


def close_command(host: Host, words: list[str]) -> Reply:
    plain, options = parse(words, flags=("--delete",))
    kind, name = required(plain, 2)
    if kind != "disk":
        raise UsageError(f"Invalid parameter '{kind}'")
    medium = find_medium(host, name)
    if lock_state(host, medium, host.readers()) != "created":
        text = f"Medium '{medium.location}' is locked for reading by another task"
        raise VBoxError(
            text, code="VBOX_E_INVALID_OBJECT_STATE", component="MediumWrap", context="Close()"
        )
    host.media.pop(medium.uuid, None)
    if medium.registry in host.machines:
        settings.write_machine(host, host.machines[medium.registry])
    if "delete" in options:
        os.unlink(medium.location)
    return Reply(stderr=PROGRESS if "delete" in options else "")


@dataclass(frozen=True)
class Cat:
    """A `mediumio --disk=… cat` that may begin."""

    chain: list[Medium]
    start: int
    end: int
    output: str


def prepare_cat(host: Host, words: list[str]) -> Cat:
    """Checks the command. The caller holds the lock of the state. Raises `VBoxError`."""
    plain, options = parse(words, values=("--disk", "--offset", "--size", "--output"))
    if plain != ["cat"] or "disk" not in options:
        raise UsageError("Missing subcommand")
    medium = find_medium(host, options["disk"])
    disks.check_readable(medium)
    if lock_state(host, medium, set()) == "locked write":
        text = f"Medium '{medium.location}' is locked for writing by another task"
        raise VBoxError(
            text,
            code="VBOX_E_INVALID_OBJECT_STATE",
            component="MediumWrap",
            context="OpenForIO(...)",
        )
    chain = host.chain(medium.uuid) if medium.uuid in host.media else [medium]
    start = int(options.get("offset", "0"))
    end = start + int(options["size"]) if "size" in options else medium.mib * disks.BLOCK
    return Cat(chain, start, end, options.get("output", ""))


def cat(cat: Cat) -> Reply:
    """The guest's view of the disk, raw, on stdout or into a file.

    Takes as long as its reader does; nobody waits for it meanwhile.
    """
    start = cat.start
    with open(cat.output, "xb") if cat.output else nullcontext(sys.stdout.buffer) as file:
        while start < cat.end:
            block, offset = divmod(start, disks.BLOCK)
            data = disks.read_block(cat.chain, block)[offset : offset + cat.end - start]
            file.write(data)
            start += len(data)
    return Reply()
