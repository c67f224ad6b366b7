"""A VM on trial: what is said of what was seen, and that it is taken away."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from shared.host.errors import VBoxManageError
from shared.host.processes import Completed
from shared.virtualbox import boot_check
from shared.virtualbox.boot_check import BootCheck, Observation
from shared.virtualbox.inventory import Machine
from shared.virtualbox.storage import Image
from shared.virtualbox.vboxmanage import VBoxManage
from tests.unit.state.builders import StillClock
from tests.unit.virtualbox.fakes import DISK, A

SHOWN = f'name="x"\nUUID="{A}"\nVMState="poweroff"\n'


class VirtualBox:
    """Remembers what it was told.

    `state` is what `showvminfo` says, `events` what happens to a running guest, by time.
    """

    def __init__(self, clock: StillClock, folder: Path) -> None:
        self.clock, self.disk = clock, folder / "disk.vdi"
        self.disk.write_bytes(b"")
        self.shown = SHOWN
        self.calls: list[tuple[str, ...]] = []
        self.properties: dict[str, str] = {}
        self.events: dict[int, Callable[[], object]] = {}
        self.hangs = False
        self.locked = 0
        self.locked_command, self.complaint = (
            "modifyvm",
            "is already locked by a session (or being unlocked)",
        )

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        words = tuple(arguments[1:])
        self.calls.append(words)
        if self.locked and words[0] == self.locked_command:
            self.locked -= 1
            return Completed(words, 1, "", f"VBoxManage: error: The machine 'x' {self.complaint}\n")
        if words[0] == "startvm" and self.hangs:
            self.shown = self.shown.replace('"poweroff"', '"starting"')
            return Completed(words, -15, "", "", timed_out=True)
        if words[0] == "controlvm" and self.hangs:
            return Completed(words, 1, "", "VBoxManage: error: Invalid machine state: Starting\n")
        if words[0] == "controlvm":
            self.shown = self.shown.replace('"running"', '"poweroff"')
        return Completed(words, 0, self._answer(words), "")

    def _answer(self, words: tuple[str, ...]) -> str:
        if words[0] == "startvm":
            self.began = self.clock.monotonic()
            self.shown = self.shown.replace('"poweroff"', '"running"')
        if words[0] == "showvminfo":
            for moment in [
                moment
                for moment in self.events
                if self.clock.monotonic() - getattr(self, "began", 1e9) >= moment
            ]:
                self.events.pop(moment)()
            return self.shown
        if words[:2] == ("guestproperty", "get"):
            return (
                f"Value: {self.properties[words[3]]}\n"
                if words[3] in self.properties
                else "No value set!\n"
            )
        if words[:2] == ("guestproperty", "delete"):
            self.properties.pop(words[3], None)
        return ""

    @property
    def machine(self) -> Machine:
        return Machine(A, "x", "/vms/x/x.vbox", chains=((Image(DISK, str(self.disk), "VDI", ""),),))


@pytest.fixture
def box(tmp_path: Path) -> VirtualBox:
    return VirtualBox(StillClock(), tmp_path)


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_check, "processor_seconds", lambda _uuid: 0.0)


def on_trial(box: VirtualBox, **more: Any) -> BootCheck:
    vboxmanage = VBoxManage("VBoxManage", box, 5, clock=box.clock)
    return BootCheck(vboxmanage, box.clock, box.machine, **more)


def test_settings_by_their_names(box: VirtualBox) -> None:
    on_trial(box).change([])
    on_trial(box).change([("memory", "512"), ("cpus", "1")])
    assert box.calls == [("modifyvm", A, "--memory=512", "--cpus=1")]


def test_somebody_who_only_looks_at_the_vm_is_waited_for(box: VirtualBox) -> None:
    box.locked = 3
    on_trial(box).change([("memory", "512")])
    assert (len(box.calls), sum(box.clock.slept)) == (4, 3)
    box.locked = 1000
    with pytest.raises(VBoxManageError, match="already locked"):
        on_trial(box).change([("memory", "512")])


@pytest.mark.parametrize(
    "complaint",
    [
        "was unlocked unexpectedly while attempting to share its session",
        "already has a lock request pending",
    ],
)
def test_a_look_that_fails_for_a_moment_says_nothing_of_the_guest(
    box: VirtualBox, complaint: str
) -> None:
    box.events = {5: lambda: __import__("os").utime(box.disk, (1, 1))}
    box.locked, box.locked_command, box.complaint = 7, "showvminfo", complaint
    assert watch(box).problem == ""


def watch(box: VirtualBox, seconds: float = 10) -> Observation:
    return on_trial(box).start_and_watch(seconds)


def test_guest_additions_that_answer_are_enough(box: VirtualBox) -> None:
    box.properties = {
        "/VirtualBox/GuestAdd/Version": "7.2.22",
        "/VirtualBox/GuestInfo/OS/Product": "what an earlier run left",
    }
    box.events = {3: lambda: box.properties.update({"/VirtualBox/GuestInfo/OS/Product": "Linux"})}
    assert watch(box) == Observation("its Guest Additions 7.2.22 answered after 3 s: Linux")


def test_guest_additions_that_never_answer(box: VirtualBox) -> None:
    box.properties = {
        "/VirtualBox/GuestAdd/Version": "7.2.22",
        "/VirtualBox/GuestInfo/OS/Product": "what an earlier run left",
    }
    seen = watch(box)
    assert seen.problem == "its Guest Additions did not answer within 10 s"


@pytest.mark.parametrize("state", ["poweroff", "aborted", "gurumeditation", "paused"])
def test_a_guest_that_does_not_go_on_running(box: VirtualBox, state: str) -> None:
    box.events = {4: lambda: setattr(box, "shown", box.shown.replace('"running"', f'"{state}"'))}
    assert watch(box) == Observation(f"it was {state} after 4 s", "it did not go on running")


def test_a_guest_without_additions_that_writes(box: VirtualBox) -> None:
    box.events = {5: lambda: __import__("os").utime(box.disk, (1, 1))}
    seen = watch(box)
    assert seen.problem == ""
    assert seen.text == (
        "it ran for 10 s, wrote to its disks and used 0.0 s of processor time; it has no "
        "Guest Additions that could say more"
    )


def test_a_guest_that_computes(box: VirtualBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_check, "processor_seconds", lambda _uuid: 7.0)
    assert "did not write to its disks and used 7.0 s" in watch(box).text
    assert watch(box).problem == ""


def test_a_guest_that_does_nothing(box: VirtualBox) -> None:
    assert watch(box).problem == "it did nothing"


def test_removing_one_that_runs_switches_it_off_first(box: VirtualBox) -> None:
    box.shown = SHOWN.replace("poweroff", "running")
    on_trial(box).remove()
    changing = [words for words in box.calls if words[0] != "showvminfo"]
    assert changing == [("controlvm", A, "poweroff"), ("unregistervm", A)]


def test_removing_one_that_is_off(box: VirtualBox) -> None:
    box.shown = SHOWN
    on_trial(box).remove()
    assert box.calls[-1] == ("unregistervm", A)
    assert all(words[0] != "controlvm" for words in box.calls)


class Process:
    """The process in which a VM runs."""

    def __init__(self, box: VirtualBox) -> None:
        self._box = box

    def kill(self) -> None:
        self._box.shown = self._box.shown.replace('"starting"', '"aborted"')


def test_a_start_that_hangs_is_told_and_its_process_is_ended(box: VirtualBox) -> None:
    """As one does that waits for a teleporter."""
    box.hangs = True
    assert watch(box).problem == "it did not start within 180 s"
    on_trial(box, processes=lambda uuid: [Process(box)] if uuid == A else []).remove()
    assert box.calls[-1] == ("unregistervm", A)
