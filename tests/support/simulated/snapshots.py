"""Snapshots and clones."""

import contextlib
import os
import shutil
import time

from tests.support.simulated import disks, power, settings
from tests.support.simulated.arguments import parse, required
from tests.support.simulated.errors import (
    PROGRESS,
    Reply,
    UsageError,
    VBoxError,
    failed_task,
    locked_by_session,
)
from tests.support.simulated.information import tree_lines
from tests.support.simulated.machines import add, find, new_uuid, settings_path
from tests.support.simulated.state import Host, Machine, Medium, Snapshot


def command(host: Host, words: list[str]) -> Reply:
    plain, options = parse(words, values=("--description",), flags=("--live", "--machinereadable"))
    name, action = required(plain, 2)
    machine = find(host, name)
    if action == "list":
        return _list(machine, readable="machinereadable" in options)
    if action not in ("take", "delete", "restore", "edit"):
        raise UsageError(f"Invalid parameter '{action}'")
    title = required(plain, 3)[2]
    if action == "take":
        if "live" in options and machine.state != "running" and machine.runs:
            text = "Cannot take a live snapshot of a virtual machine unless it is running."
            code = "VBOX_E_INVALID_VM_STATE"
            raise VBoxError(
                text, code=code, component="SessionMachine", context="TakeSnapshot(...)"
            )
        return _take(host, machine, title, options.get("description", ""))
    snapshot = find_snapshot(machine, title, "SessionMachine")
    if action == "edit":
        snapshot.description = options.get("description", snapshot.description)
        settings.write_machine(host, machine)
        return Reply()
    return (
        _delete(host, machine, snapshot)
        if action == "delete"
        else _restore(host, machine, snapshot)
    )


def find_snapshot(machine: Machine, name: str, component: str) -> Snapshot:
    for snapshot in machine.snapshots:
        if name in (snapshot.uuid, snapshot.name):
            return snapshot
    text = (
        f"Could not find a snapshot named '{name}'"
        if machine.snapshots
        else "This machine does not have any snapshots"
    )
    raise VBoxError(
        text, code="VBOX_E_OBJECT_NOT_FOUND", component=component, context="FindSnapshot(...)"
    )


def _list(machine: Machine, *, readable: bool) -> Reply:
    if not machine.snapshots:
        raise VBoxError(said="This machine does not have any snapshots\n")
    if readable:
        return Reply("\n".join(tree_lines(machine)) + "\n")
    lines = []
    for snapshot, depth in _walk(machine, "", 1):
        star = " *" if snapshot.uuid == machine.current_snapshot else ""
        lines.append(f"{'   ' * depth}Name: {snapshot.name} (UUID: {snapshot.uuid}){star}")
        lines += (
            [f"{'   ' * depth}Description: {snapshot.description}"] if snapshot.description else []
        )
    return Reply("\n".join(lines) + "\n")


def _walk(machine: Machine, parent: str, depth: int) -> list[tuple[Snapshot, int]]:
    children = [snapshot for snapshot in machine.snapshots if snapshot.parent == parent]
    return [
        found
        for child in children
        for found in [(child, depth), *_walk(machine, child.uuid, depth + 1)]
    ]


def add_child(host: Host, machine: Machine, parent: Medium, registry: str) -> str:
    """A new differencing disk in the machine's snapshot folder; its UUID."""
    folder = os.path.join(machine.folder, "Snapshots")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    uuid = new_uuid()
    path = os.path.join(folder, f"{{{uuid}}}.vdi")
    disks.create(path, uuid, parent.mib, parent.uuid)
    host.media[uuid] = Medium(uuid, path, parent.mib, parent=parent.uuid, registry=registry)
    return uuid


def _goes_on(host: Host, machine: Machine, disk: str, registry: str) -> str:
    """The disk to which the machine writes from a snapshot on."""
    if unfrozen(host, disk):
        return disk
    return add_child(host, machine, host.media[disk], registry)


def unfrozen(host: Host, disk: str) -> bool:
    """Whether a snapshot leaves the disk as it is, so that it goes on being written to."""
    return host.media[disk].kind.lower() in ("writethrough", "shareable")


def _take(host: Host, machine: Machine, name: str, description: str) -> Reply:
    uuid, now = new_uuid(), time.time()
    if machine.state == "running":
        disks.write_counter(host, machine, machine.counted + power.beats(machine, now))
    state_file = power.write_memory(machine) if machine.runs else machine.state_file
    snapshot = Snapshot(
        uuid, name, machine.current_snapshot, now, description, state_file, dict(machine.disks)
    )
    machine.disks = {
        slot: disk
        if unfrozen(host, disk)
        else add_child(host, machine, host.media[disk], machine.uuid)
        for slot, disk in machine.disks.items()
    }
    machine.snapshots.append(snapshot)
    machine.current_snapshot, machine.changed = uuid, now
    settings.write_machine(host, machine)
    return Reply(f"Snapshot taken. UUID: {uuid}\n", PROGRESS)


def _delete(host: Host, machine: Machine, snapshot: Snapshot) -> Reply:
    """Merges the snapshot's disks with their only children.

    The result keeps the UUID and the file of the lower one.
    """
    said = f"Deleting snapshot '{snapshot.name}' ({snapshot.uuid})\n"
    below = [child for child in machine.snapshots if child.parent == snapshot.uuid]
    if len(below) > 1 or (below and snapshot.uuid == machine.current_snapshot):
        text = (
            f"Snapshot '{snapshot.name}' of the machine '{machine.name}' cannot be deleted, "
            f"because it "
        )
        text += (
            "is the current snapshot and has one child snapshot"
            if len(below) == 1
            else f"has {len(below)} child snapshots"
        )
        code = "VBOX_E_INVALID_OBJECT_STATE"
        raise VBoxError(
            text, code=code, component="SessionMachine", context="DeleteSnapshot(...)", said=said
        )
    merged = [disk for disk in snapshot.disks.values() if not unfrozen(host, disk)]
    for disk in merged:
        _refuse_merge(host, host.media[disk], said)
    for disk in merged:
        _merge(host, machine, host.media[disk])
    for child in below:
        child.parent = snapshot.parent
    if machine.current_snapshot == snapshot.uuid:
        machine.current_snapshot = snapshot.parent
    machine.snapshots.remove(snapshot)
    _drop_memory(machine, snapshot.state_file)
    machine.changed = time.time()
    settings.write_machine(host, machine)
    return Reply(said, PROGRESS)


def _refuse_merge(host: Host, medium: Medium, said: str) -> None:
    handler = "handleSnapshot"
    children = host.children(medium.uuid)
    if len(children) > 1:
        text = f"Hard disk '{medium.location}' has more than one child hard disk ({len(children)})"
        code = "NS_ERROR_FAILURE"
        raise failed_task(
            "Snapshot operation failed",
            text,
            code=code,
            component="SessionMachine",
            handler=handler,
            said=said,
        )
    if {medium.uuid, *(child.uuid for child in children)} & host.readers():
        text = f"Cannot lock hard disk '{medium.location}' when deleting a snapshot\n"
        text += f"Medium '{medium.location}' is locked for reading by another task"
        code = "VBOX_E_INVALID_OBJECT_STATE"
        raise failed_task(
            "Snapshot operation failed",
            text,
            code=code,
            component="MediumWrap",
            handler=handler,
            said=said,
        )


def _merge(host: Host, machine: Machine, medium: Medium) -> None:
    children = host.children(medium.uuid)
    if (
        not children
    ):  # the machine has been restored to another snapshot since: nothing stands on it
        if medium.parent:
            os.unlink(medium.location)
            del host.media[medium.uuid]
        return
    child = children[0]
    disks.merge(child, medium)
    os.unlink(child.location)
    del host.media[child.uuid]
    for other in host.children(child.uuid):
        other.parent = medium.uuid
    for slots in (machine.disks, *(snapshot.disks for snapshot in machine.snapshots)):
        slots.update({slot: medium.uuid for slot, disk in slots.items() if disk == child.uuid})


def _drop_memory(machine: Machine, state_file: str) -> None:
    if state_file and state_file not in (
        machine.state_file,
        *(snapshot.state_file for snapshot in machine.snapshots),
    ):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(machine.folder, state_file))


def _restore(host: Host, machine: Machine, snapshot: Snapshot) -> Reply:
    """The .vbox is rewritten before the state changes, with the time of the snapshot (measured)."""
    if machine.runs:
        raise locked_by_session(machine.name, "for a session (or being unlocked)")
    dropped = [
        host.media[disk]
        for slot, disk in machine.disks.items()
        if disk != snapshot.disks.get(slot) and not host.children(disk)
    ]
    old_memory, machine.state_file = machine.state_file, snapshot.state_file
    machine.disks = {
        slot: add_child(host, machine, host.media[disk], machine.uuid)
        for slot, disk in snapshot.disks.items()
    }
    for medium in dropped:
        os.unlink(medium.location)
        del host.media[medium.uuid]
    machine.current_snapshot = snapshot.uuid
    _drop_memory(machine, old_memory)
    machine.changed = snapshot.taken
    settings.write_machine(host, machine)
    machine.state, machine.changed = ("saved" if snapshot.state_file else "poweroff"), time.time()
    return Reply(f"Restoring snapshot '{snapshot.name}' ({snapshot.uuid})\n", PROGRESS)


def clone_command(host: Host, words: list[str]) -> Reply:
    """A linked clone of a snapshot.

    Its disk is listed in the .vbox of the machine it comes from (measured).
    """
    values = ("--snapshot", "--mode", "--options", "--name", "--basefolder", "--uuid")
    plain, options = parse(words, values=values, flags=("--register",))
    source = find(host, required(plain, 1)[0])
    if "link" not in options.get("options", "").lower().split(","):
        raise UsageError("Only linked clones are simulated")
    if "snapshot" not in options:
        text = "Linked clone can only be created from a snapshot"
        raise VBoxError(text, code="NS_ERROR_INVALID_ARG", context="CloneTo(...)")
    snapshot = find_snapshot(source, options["snapshot"], "MachineWrap")
    name = options.get("name") or f"{source.name} Clone"
    clone = Machine(
        options.get("uuid") or new_uuid(),
        name,
        settings_path(host, name, options.get("basefolder", "")),
        snapshot.taken,
    )
    os.makedirs(clone.folder, mode=0o700)
    clone.extra_data, clone.description = dict(source.extra_data), source.description
    clone.kinds, clone.groups = dict(source.kinds), list(source.groups)
    clone.drives = dict(source.drives)
    clone.memory, clone.controllers, clone.state_file = (
        source.memory,
        dict(source.controllers),
        snapshot.state_file,
    )
    clone.disks = {
        slot: disk
        if unfrozen(host, disk)
        else add_child(host, clone, host.media[disk], source.uuid)
        for slot, disk in snapshot.disks.items()
    }
    if snapshot.state_file:
        shutil.copy(
            os.path.join(source.folder, snapshot.state_file),
            os.path.join(clone.folder, snapshot.state_file),
        )
        clone.state = "saved"
    settings.write_machine(host, clone)
    settings.write_machine(host, source)
    if (
        "register" in options and clone.uuid in host.machines
    ):  # noticed only when all is made, and all is left (measured)
        text = (
            f"Registered machine with UUID {{{clone.uuid}}} "
            f"('{host.machines[clone.uuid].settings}') already exists"
        )
        raise VBoxError(text, code="NS_ERROR_INVALID_ARG", context='"RegisterMachine(trgMachine)"')
    if "register" in options:
        add(host, clone)
    return Reply(f'Machine has been successfully cloned as "{name}"\n', PROGRESS)
