"""Power: startvm, controlvm, discardstate, and what time does to machines by itself."""

import os
import time

from tests.support.simulated import disks, settings
from tests.support.simulated.arguments import parse, required
from tests.support.simulated.errors import (
    PROGRESS,
    Reply,
    UsageError,
    VBoxError,
    locked_by_session,
    not_running,
)
from tests.support.simulated.machines import find
from tests.support.simulated.state import Host, Machine, exports

#: A guest takes this long to boot; a power button pressed before is lost.
BOOT_SECONDS = 0.3
#: What the screen of every guest shows: a PNG image of one pixel.
SCREEN = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010000000037"
    "6ef9240000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)
_WAIT = 'Waiting for VM "{}" to power on...\n'


def advance(host: Host, *, service_gone: bool) -> bool:
    """Brings the state up to now.

    Guests that were asked to shut down have, and an idle VBoxSVC has ended. Says whether it
    changed.
    """
    changed = False
    now = time.time()
    for machine in host.machines.values():
        if machine.ends is not None and machine.ends <= now:
            end(host, machine, "poweroff", machine.ends)
            changed = True
    if (
        service_gone
        and not any(machine.runs for machine in host.machines.values())
        and not exports(host.home)
    ):
        for machine in host.machines.values():
            before = (machine.changed, machine.state)
            machine.settle()
            changed |= before != (machine.changed, machine.state)
    return changed


def start_command(host: Host, words: list[str]) -> Reply:
    plain, options = parse(words, values=("--type",))
    name = required(plain, 1)[0]
    machine = find(host, name)
    kind = options.get("type", "gui")
    if kind not in ("gui", "headless", "sdl", "separate"):
        raise VBoxError(
            f"Invalid frontend name: '{kind}'",
            code="NS_ERROR_INVALID_ARG",
            context="LaunchVMProcess(...)",
        )
    if machine.runs:
        raise locked_by_session(machine.name, "by a session (or being locked or unlocked)")
    if kind != "headless":  # no screen here
        text = (
            f"Could not launch the VM process for the machine '{machine.name}' "
            f"(VERR_FILE_NOT_FOUND)"
        )
        raise VBoxError(text, code="VBOX_E_IPRT_ERROR", context="LaunchVMProcess(...)")
    media = [medium for disk in machine.disks.values() for medium in host.chain(disk)]
    for medium in media:
        disks.check_readable(medium)
    if any(medium.uuid in host.readers() for medium in media):
        text = (
            "Locking of attached media failed. A possible reason is that one of the media is "
            "attached to a running VM"
        )
        raise VBoxError(
            text,
            code="VBOX_E_INVALID_OBJECT_STATE",
            component="SessionMachine",
            said=_WAIT.format(name),
        )
    start(host, machine)
    return Reply(f'{_WAIT.format(name)}VM "{name}" has been successfully started.\n')


def start(host: Host, machine: Machine) -> None:
    """Runs the machine.

    Its .vbox is rewritten only if a saved state is used up, and then still with the older time.
    """
    if machine.state_file:
        machine.state_file = ""
        settings.write_machine(host, machine)
    machine.state = "running"
    machine.changed = machine.started = time.time()
    machine.counted = disks.read_counter(host, machine)
    disks.write_counter(host, machine, machine.counted + 1)


def end(host: Host, machine: Machine, state: str, moment: float | None = None) -> None:
    """The machine stops running, its guest's last count on the disk."""
    moment = time.time() if moment is None else moment
    if machine.state == "running":
        disks.write_counter(host, machine, machine.counted + beats(machine, moment))
    machine.state, machine.changed, machine.ends = state, moment, None
    settings.write_machine(host, machine)


def beats(machine: Machine, moment: float) -> int:
    return int(moment - machine.started) + 1


def control_command(host: Host, words: list[str]) -> Reply:
    name, action = required(words, 2)
    machine = find(host, name)
    if not machine.runs:
        raise not_running(name)
    if action == "screenshotpng":
        return _take_screenshot(required(words, 3)[2])
    if action not in _ACTIONS:
        raise UsageError(f"Invalid parameter '{action}'")
    return _ACTIONS[action](host, machine)


def _power_off(host: Host, machine: Machine) -> Reply:
    end(host, machine, "poweroff")
    return Reply(stderr=PROGRESS)


def _press_power_button(host: Host, machine: Machine) -> Reply:
    if machine.state == "paused":
        raise VBoxError(
            "Invalid machine state: Paused",
            code="VBOX_E_INVALID_VM_STATE",
            component="ConsoleWrap",
            context="PowerButton()",
        )
    now = time.time()
    if machine.button_delay is not None and now - machine.started >= BOOT_SECONDS:
        machine.ends = now + machine.button_delay
    return Reply()


def _save_state(host: Host, machine: Machine) -> Reply:
    machine.state_file = write_memory(machine)
    end(host, machine, "saved")
    return Reply(stderr=PROGRESS)


def _pause(host: Host, machine: Machine) -> Reply:
    if machine.state == "paused":
        raise VBoxError(
            "Already paused",
            code="VBOX_E_INVALID_VM_STATE",
            component="ConsoleWrap",
            context="Pause()",
        )
    machine.state, machine.changed = "paused", time.time()
    return Reply()


def _resume(host: Host, machine: Machine) -> Reply:
    if machine.state == "running":
        text = "Cannot resume the machine as it is not paused (machine state: Running)"
        raise VBoxError(
            text, code="VBOX_E_INVALID_VM_STATE", component="ConsoleWrap", context="Resume()"
        )
    machine.state, machine.changed = "running", time.time()
    return Reply()


def _take_screenshot(path: str) -> Reply:
    with open(path, "wb") as file:
        file.write(SCREEN)
    return Reply()


_ACTIONS = {
    "poweroff": _power_off,
    "acpipowerbutton": _press_power_button,
    "savestate": _save_state,
    "pause": _pause,
    "resume": _resume,
}


def write_memory(machine: Machine) -> str:
    """A file with the guest's memory; its path relative to the machine's folder."""
    moment = time.time()
    name = (
        time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime(moment))
        + f"-{int(moment % 1 * 1e9):09d}Z.sav"
    )
    folder = os.path.join(machine.folder, "Snapshots")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(b"\x7fVirtualBox SavedState V2.0\n".ljust(4096, b"\0"))
    return f"Snapshots/{name}"


def property_command(host: Host, words: list[str]) -> Reply:
    """No guest here has Guest Additions."""
    action, name = required(words, 2)
    find(host, name)
    return Reply("No value set!\n" if action == "get" else "")


def discard_command(host: Host, words: list[str]) -> Reply:
    machine = find(host, required(words, 1)[0])
    if machine.state != "saved":
        names = {
            "poweroff": "PoweredOff",
            "aborted": "Aborted",
            "running": "Running",
            "paused": "Paused",
        }
        text = (
            "Cannot discard the saved state as the machine is not in the Saved or "
            "Aborted-Saved state"
        )
        text = f"{text} (machine state: {names[machine.state]})"
        # The real one exits with 0 as well: what VBoxManage prints counts, not only its status.
        raise VBoxError(
            text,
            code="VBOX_E_INVALID_VM_STATE",
            component="SessionMachine",
            context="DiscardSavedState(true )",
            status=0,
        )
    path = os.path.join(machine.folder, machine.state_file)
    if all(snapshot.state_file != machine.state_file for snapshot in machine.snapshots):
        os.unlink(path)
    machine.state_file, machine.state, machine.changed = "", "poweroff", time.time()
    settings.write_machine(host, machine)
    return Reply()
