"""Power states, and what shows that a VM was used: the table of `docs/virtualbox.md`."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.hosts import VirtualBoxHost, VirtualMachine
from tests.support.waiting import wait_for


@dataclass(frozen=True)
class Look:
    """What a program outside can see of a VM. Times of VirtualBox are whole seconds."""

    state: str
    changed: str
    written: str
    settings: float
    disk: float


def look(vm: VirtualMachine) -> Look:
    written = re.findall(r'lastStateChange="(.*?)Z"', vm.settings.read_text(encoding="utf-8"))[0]
    return Look(
        state=vm.info("VMState"),
        changed=vm.info("VMStateChangeTime")[:19],
        written=written,
        settings=vm.settings.stat().st_mtime,
        disk=vm.disk.stat().st_mtime,
    )


def next_second() -> None:
    """Waits until whole seconds show a difference."""
    time.sleep(1.01 - time.time() % 1)


def differences(before: Look, after: Look) -> set[str]:
    return {
        name
        for name in ("changed", "written", "settings", "disk")
        if getattr(before, name) != getattr(after, name)
    }


def start_and_stop(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    vm.start()
    vm.stop()


def save_and_discard(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    vm.start()
    host.run("controlvm", vm.uuid, "savestate")
    host.run("discardstate", vm.uuid)


def start_and_kill(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    vm.start()
    vm.kill()


def start_and_lose_power(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    vm.start()
    host.lose_power()


def query(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    host.run("list", "vms")
    host.run("list", "runningvms")
    host.run("showvminfo", vm.uuid)
    host.run("showmediuminfo", "disk", vm.disk)


def export(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    host.run("export", vm.uuid, "--ovf20", "--manifest", f"--output={host.folder}/{vm.name}.ova")


def edit_disk(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    with vm.disk.open("r+b") as file:
        file.seek(3 << 20)
        file.write(b"edited")


def run(*words: str) -> Callable[[VirtualBoxHost, VirtualMachine], None]:
    def act(host: VirtualBoxHost, vm: VirtualMachine) -> None:
        host.run(*(vm.uuid if word == "?" else word for word in words))

    return act


def with_snapshot(*then: str) -> Callable[[VirtualBoxHost, VirtualMachine], None]:
    return run("snapshot", "?", *then)


TABLE = {
    "queries": (query, "poweroff", set()),
    "export": (export, "poweroff", set()),
    "modifyvm": (run("modifyvm", "?", "--description=new"), "poweroff", {"settings"}),
    "setextradata": (run("setextradata", "?", "key", "value"), "poweroff", {"settings"}),
    "start-stop": (start_and_stop, "poweroff", {"changed", "written", "settings", "disk"}),
    "save-discard": (save_and_discard, "poweroff", {"changed", "written", "settings", "disk"}),
    "kill": (start_and_kill, "aborted", {"changed", "written", "settings", "disk"}),
    "power-loss": (start_and_lose_power, "poweroff", {"disk"}),
    "disk-edited": (edit_disk, "poweroff", {"disk"}),
    "snapshot-take": (with_snapshot("take", "tag"), "poweroff", {"changed", "written", "settings"}),
}


@pytest.mark.parametrize("row", TABLE)
def test_what_shows_that_a_vm_was_used(host: VirtualBoxHost, row: str) -> None:
    act, state, seen = TABLE[row]
    vm = host.make_vm(f"row-{row}")
    before = look(vm)
    next_second()
    act(host, vm)
    after = look(vm)
    assert after.state == state
    assert differences(before, after) == seen


def test_restoring_a_snapshot_sets_the_time_in_the_settings_back(
    host: VirtualBoxHost, vm: VirtualMachine
) -> None:
    host.run("snapshot", vm.uuid, "take", "tag")
    at_snapshot = look(vm)
    next_second()
    start_and_stop(host, vm)
    before, disk = look(vm), vm.info("SATA-0-0")
    next_second()
    restored = host.run("snapshot", vm.uuid, "restore", "tag")
    assert re.fullmatch(r"Restoring snapshot 'tag' \([0-9a-f-]{36}\)\n", restored.stdout)
    after = look(vm)
    assert after.written == at_snapshot.written < before.written
    assert differences(before, after) == {"changed", "written", "settings"}
    assert vm.info("SATA-0-0") != disk
    assert not Path(disk).exists()
    host.lose_power()
    assert look(vm).changed == at_snapshot.written, "VBoxSVC believes the settings"


def test_deleting_a_snapshot_writes_into_the_base(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    host.run("snapshot", vm.uuid, "take", "tag")
    start_and_stop(host, vm)
    before, counter = look(vm), vm.counter()
    next_second()
    host.run("snapshot", vm.uuid, "delete", "tag")
    assert differences(before, look(vm)) == {"changed", "written", "settings", "disk"}
    assert vm.info("SATA-0-0") == str(vm.disk)
    assert vm.counter() == counter > 0


def test_times_lose_their_fraction_when_vboxsvc_restarts(
    host: VirtualBoxHost, vm: VirtualMachine
) -> None:
    start_and_stop(host, vm)
    before = vm.info("VMStateChangeTime")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}000000", before)
    host.lose_power()
    assert vm.info("VMStateChangeTime") == f"{before[:19]}.000000000"


def test_a_start_is_not_written_down(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    before = look(vm)
    next_second()
    vm.start()
    after = look(vm)
    assert after.state == "running"
    assert differences(before, after) == {"changed", "disk"}
    vm.stop()


def test_the_guest_counts_on_its_disk(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    counts = [vm.counter()]
    for _ in range(2):
        start_and_stop(host, vm)
        counts.append(vm.counter())
    assert counts[0] == 0
    assert counts == sorted(set(counts))


def test_states_while_it_runs(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    assert (vm.info("VMState"), vm.info("SessionName")) == ("poweroff", "")
    started = host.run("startvm", vm.uuid, "--type=headless")
    assert started.stdout == (
        f'Waiting for VM "{vm.uuid}" to power on...\nVM "{vm.uuid}" has been successfully '
        f"started.\n"
    )
    assert (vm.info("VMState"), vm.info("SessionName")) == ("running", "headless")
    wait_for(
        lambda: vm.beats() > 0, "the guest to boot", seconds=90
    )  # one that is saved while its firmware starts does not go on
    host.run("controlvm", vm.uuid, "pause")
    assert (vm.info("VMState"), vm.info("SessionName")) == ("paused", "headless")
    host.run("controlvm", vm.uuid, "resume")
    assert vm.info("VMState") == "running"
    host.run("controlvm", vm.uuid, "savestate")
    vm.wait_for_state("saved")
    state_file = vm.info("VMStateFile")
    assert re.fullmatch(rf"{re.escape(str(vm.settings.parent))}/Snapshots/.*\.sav", state_file)
    assert re.findall(r'stateFile="(.*?)"', vm.settings.read_text(encoding="utf-8")) == [
        state_file.split("/", state_file.count("/") - 1)[-1]
    ]
    vm.start()
    assert "stateFile=" not in vm.settings.read_text(encoding="utf-8")
    vm.stop()


def test_the_power_button_is_obeyed(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    vm.start()
    vm.press_power_button()
    vm.wait_for_state("poweroff")
    assert vm.info("SessionName") == ""


def test_a_guest_may_ignore_the_power_button(host: VirtualBoxHost, name: str) -> None:
    vm = host.make_vm(name, delay=None)
    vm.start()
    vm.press_power_button()
    time.sleep(1.5)
    assert vm.info("VMState") == "running"
    vm.stop()


def test_aborted_is_written_down_and_stays_while_it_runs_again(
    host: VirtualBoxHost, vm: VirtualMachine
) -> None:
    start_and_kill(host, vm)
    assert ' aborted="true"' in vm.settings.read_text(encoding="utf-8")
    vm.start()
    assert ' aborted="true"' in vm.settings.read_text(encoding="utf-8")
    vm.stop()
    assert ' aborted="true"' not in vm.settings.read_text(encoding="utf-8")


REFUSED_STOPPED = {
    "poweroff": ["controlvm", "?", "poweroff"],
    "acpipowerbutton": ["controlvm", "?", "acpipowerbutton"],
    "savestate": ["controlvm", "?", "savestate"],
    "pause": ["controlvm", "?", "pause"],
}


@pytest.mark.parametrize("command", REFUSED_STOPPED)
def test_a_stopped_vm_cannot_be_controlled(host: VirtualBoxHost, command: str) -> None:
    vm = host.make_vm(f"stopped-{command}")
    refused = host.run(
        *(vm.uuid if word == "?" else word for word in REFUSED_STOPPED[command]), check=False
    )
    expected = f"VBoxManage: error: Machine '{vm.uuid}' is not currently running.\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", expected)


def test_what_a_running_vm_refuses(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    vm.start()
    refusals = {
        (
            "startvm",
            "--type=headless",
        ): "is already locked by a session (or being locked or unlocked)",
        ("modifyvm", "--memory=32"): "is already locked for a session (or being unlocked)",
        ("unregistervm",): f"Cannot unregister the machine '{vm.name}' while it is locked",
        (
            "unregistervm",
            "--delete",
        ): f"Cannot unregister the machine '{vm.name}' while it is locked",
    }
    for (command, *options), text in refusals.items():
        refused = host.run(command, vm.uuid, *options, check=False)
        assert refused.returncode == 1, command
        assert text in refused.stderr.splitlines()[0], command
        assert "code VBOX_E_INVALID_OBJECT_STATE (0x80bb0007)" in refused.stderr
    host.run("controlvm", vm.uuid, "pause")
    button = host.run("controlvm", vm.uuid, "acpipowerbutton", check=False)
    assert (button.returncode, button.stderr.splitlines()[0]) == (
        1,
        "VBoxManage: error: Invalid machine state: Paused",
    )
    vm.stop()


def test_discardstate_fails_with_status_zero(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    """The reason why stderr is read although the status says that all is well."""
    failed = host.run("discardstate", vm.uuid, check=False)
    assert (failed.returncode, failed.stdout) == (0, "")
    assert failed.stderr.startswith(
        "VBoxManage: error: Cannot discard the saved state as the machine is not in the Saved"
    )
    assert "(machine state: PoweredOff)\n" in failed.stderr


def test_a_vm_whose_disk_is_gone_is_listed_but_does_not_start(
    host: VirtualBoxHost, vm: VirtualMachine
) -> None:
    vm.disk.unlink()
    assert vm.info("VMState") == "poweroff"
    assert "State:          inaccessible\n" in host.run("showmediuminfo", "disk", vm.disk).stdout
    refused = host.run("startvm", vm.uuid, "--type=headless", check=False)
    assert refused.returncode == 1
    assert (
        f"VD: error VERR_FILE_NOT_FOUND opening image file '{vm.disk}' (VERR_FILE_NOT_FOUND)\n"
        in refused.stderr
    )
