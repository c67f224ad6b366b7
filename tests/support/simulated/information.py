"""What VBoxManage tells: list and showvminfo."""

import os
import time

from tests.support.simulated.arguments import parse, required
from tests.support.simulated.errors import Reply, UsageError, VBoxError
from tests.support.simulated.faults import Faults
from tests.support.simulated.machines import find
from tests.support.simulated.state import Host, Machine, Snapshot

VERSION = "7.2.22_Debianr175245"


def list_command(host: Host, words: list[str]) -> Reply:
    kind = required(words, 1)[0]
    if kind == "systemproperties":
        return Reply(
            f"API version:                     7_2\nDefault machine folder:          "
            f"{host.machine_folder}\n"
        )
    if kind not in ("vms", "runningvms"):
        raise UsageError(f'Unknown subcommand "{kind}".')
    lines = []
    for machine in host.machines.values():
        if kind == "vms" or machine.runs:
            name = machine.name if os.path.exists(machine.settings) else "<inaccessible>"
            lines.append(f'"{name}" {{{machine.uuid}}}\n')
    return Reply(_cut("".join(lines)))


def _cut(text: str) -> str:
    """What gets through a locale that is not UTF-8.

    Everything up to the first other character, and no error (measured).
    """
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE") or os.environ.get("LANG") or "C"
    if "utf" in locale.lower() or text.isascii():
        return text
    return text[: next(place for place, character in enumerate(text) if not character.isascii())]


def show_command(host: Host, words: list[str], faults: Faults) -> Reply:
    plain, options = parse(words, flags=("--machinereadable", "--details"))
    machine = find(host, required(plain, 1)[0])
    if faults.take("not_ready"):
        raise VBoxError(
            "The object is not ready",
            code="E_ACCESSDENIED",
            component="SessionMachine",
            context="LockMachine(...)",
        )
    state = faults.of(machine.uuid, machine.name).shown_state or machine.state
    if "machinereadable" not in options:
        text = (
            f"Name:                        {machine.name}\nUUID:                        "
            f"{machine.uuid}\n"
        )
        return Reply(
            _cut(f"{text}State:                       {state} (since {_moment(machine.changed)})\n")
        )
    return Reply(_cut("\n".join(_lines(host, machine, state)) + "\n"))


def _lines(host: Host, machine: Machine, state: str) -> list[str]:
    """The lines of the real one that anybody may look at, in its order."""
    lines = [
        f'name="{escaped(machine.name)}"',
        'groups="/"',
        'ostype="Other/Unknown"',
        f'UUID="{machine.uuid}"',
        f'CfgFile="{machine.settings}"',
        f'SnapFldr="{machine.folder}/Snapshots"',
        f'LogFldr="{machine.folder}/Logs"',
        f'hardwareuuid="{machine.uuid}"',
        f"memory={machine.memory}",
        'firmware="BIOS"',
        "cpus=1",
        f'VMState="{state}"',
        f'VMStateChangeTime="{_moment(machine.changed)}"',
    ]
    lines += (
        [f'VMStateFile="{os.path.join(machine.folder, machine.state_file)}"']
        if machine.state_file
        else []
    )
    for number, (name, ports) in enumerate(machine.controllers.items()):
        lines += [
            f'storagecontrollername{number}="{name}"',
            f'storagecontrollerportcount{number}="{ports}"',
        ]
    for name, ports in machine.controllers.items():
        for port in range(ports):
            disk = machine.disks.get(f"{name}-{port}-0")
            lines.append(f'"{name}-{port}-0"="{host.media[disk].location if disk else "none"}"')
            lines += [f'"{name}-ImageUUID-{port}-0"="{disk}"'] if disk else []
    lines += ['SessionName="headless"'] if machine.runs else []
    lines += [f'description="{escaped(machine.description)}"'] if machine.description else []
    return [*lines, *tree_lines(machine), "GuestMemoryBalloon=0"]


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _moment(seconds: float) -> str:
    """UTC with nine digits of which three count."""
    milliseconds = round(seconds * 1000)
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
        + f".{milliseconds % 1000:03d}000000"
    )


def tree_lines(machine: Machine) -> list[str]:
    """The snapshots; their names and descriptions are not escaped (measured)."""
    lines: list[str] = []

    def walk(snapshot: Snapshot, suffix: str) -> None:
        lines.extend(
            [f'SnapshotName{suffix}="{snapshot.name}"', f'SnapshotUUID{suffix}="{snapshot.uuid}"']
        )
        lines.extend(
            [f'SnapshotDescription{suffix}="{snapshot.description}"']
            if snapshot.description
            else []
        )
        if snapshot.uuid == machine.current_snapshot:
            lines.extend(
                [f'CurrentSnapshotName="{snapshot.name}"', f'CurrentSnapshotUUID="{snapshot.uuid}"']
            )
            lines.append(f'CurrentSnapshotNode="SnapshotName{suffix}"')
        children = [child for child in machine.snapshots if child.parent == snapshot.uuid]
        for number, child in enumerate(children, 1):
            walk(child, f"{suffix}-{number}")

    for snapshot in machine.snapshots:
        if not snapshot.parent:
            walk(snapshot, "")
    return lines
