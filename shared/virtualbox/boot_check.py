"""Starting a VM on trial: cut off from everything outside, watched for a while, and taken away.

The copy of a server must not meet the server: no network, no serial line to this host, no remote
display, no USB device is left to it. (An import brings no shared folders along.)
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import psutil

from shared.host.clock import Clock
from shared.host.errors import VBoxManageError
from shared.virtualbox.inventory import Machine, files_of
from shared.virtualbox.power import PowerSwitch
from shared.virtualbox.vboxmanage import VBoxManage, work_seconds

_NETWORK: Final = re.compile(r'^nic(\d+)="(?!none"|null")', re.MULTILINE)
_CABLE_IN: Final = re.compile(r'^cableconnected(\d+)="on"', re.MULTILINE)
_SERIAL: Final = re.compile(r'^uartmode(\d+)="(?!disconnected")', re.MULTILINE)
_USB_FILTER: Final = re.compile(r"^USBFilterActive\d+=", re.MULTILINE)
_VALUE: Final = re.compile(r"^Value: (.*)$", re.MULTILINE)

#: Set by Guest Additions when the guest has come up; stays in the settings afterwards, so that it
#: must be deleted before a start.
_PRODUCT: Final = "/VirtualBox/GuestInfo/OS/Product"
_ADDITIONS: Final = "/VirtualBox/GuestAdd/Version"
_LOCKED: Final = ("is already locked", "unlocked unexpectedly", "lock request pending")
_LOCKED_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 60.0


_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of a VM that was started on trial.

    `problem` says why it does not count as come up; empty: it does.
    """

    text: str
    problem: str = ""


class BootCheck:
    """One VM on trial. All methods raise `VBoxManageError`."""

    def __init__(self, vboxmanage: VBoxManage, clock: Clock, machine: Machine) -> None:
        self._vboxmanage, self._clock, self._machine = vboxmanage, clock, machine
        self._uuid = machine.uuid

    def change(self, settings: Sequence[tuple[str, str]]) -> None:
        """Changes settings by their names in `VBoxManage modifyvm`."""
        if settings:
            self._run("modifyvm", self._uuid, *(f"--{name}={value}" for name, value in settings))

    def isolate(self) -> None:
        """Cuts the VM off, and makes sure that it is."""
        shown = self._patiently(self._shown)
        words = [f"--cableconnected{number}=off" for number in _NETWORK.findall(shown)]
        words += [f"--uart-mode{number}=disconnected" for number in _SERIAL.findall(shown)]
        if 'vrde="on"' in shown:
            words.append("--vrde=off")
        if words:
            self._run("modifyvm", self._uuid, *words)
        for _ in _USB_FILTER.findall(shown):
            self._run("usbfilter", "remove", "0", "--target", self._uuid)
        if _CABLE_IN.search(self._patiently(self._shown)):
            raise VBoxManageError(
                "VirtualBox does not unplug the network of the VM, so it was not started"
            )

    def start_and_watch(self, seconds: float) -> Observation:
        """Starts the VM without a screen and watches it.

        Until its Guest Additions answer, if it had any, else for so many seconds.
        """
        additions = self._property(_ADDITIONS)
        self._run("guestproperty", "delete", self._uuid, _PRODUCT)
        before = self._disk_times()
        self._patiently(lambda: PowerSwitch(self._vboxmanage, self._clock).start(self._uuid))
        began = self._clock.monotonic()
        while (elapsed := self._clock.monotonic() - began) < seconds:
            state = self._patiently(lambda: self._vboxmanage.info(self._uuid)).state
            if state not in ("starting", "running"):
                return Observation(
                    f"it was {state} after {elapsed:.0f} s", "it did not go on running"
                )
            if additions and (product := self._property(_PRODUCT)):
                return Observation(
                    f"its Guest Additions {additions} answered after {elapsed:.0f} s: {product}"
                )
            self._clock.sleep(min(_POLL_SECONDS, max(0.0, seconds - elapsed)))
        return self._judge(seconds, additions, wrote=self._disk_times() != before)

    def remove(self) -> None:
        """Switches the VM off and unregisters it.

        Its files stay, to be removed with their folder by whoever made that.

        `unregistervm --delete` would delete every disk that is attached by now, whosever it is.
        """
        if not self._patiently(lambda: self._vboxmanage.info(self._uuid)).stopped:
            self._run("controlvm", self._uuid, "poweroff")
            PowerSwitch(self._vboxmanage, self._clock).wait_for(
                self._uuid, frozenset({"poweroff", "aborted"}), _STOP_SECONDS
            )
        self._patiently(
            lambda: self._vboxmanage.run_long(work_seconds(), "unregistervm", self._uuid)
        )

    def _judge(self, seconds: float, additions: str, *, wrote: bool) -> Observation:
        """What can be said of a guest that said nothing itself."""
        busy = processor_seconds(self._uuid)
        seen = f"it ran for {seconds:.0f} s, {'wrote' if wrote else 'did not write'} to its disks"
        seen += f" and used {busy:.1f} s of processor time" if busy is not None else ""
        if additions:
            return Observation(seen, f"its Guest Additions did not answer within {seconds:.0f} s")
        if not wrote and not busy:
            return Observation(seen, "it did nothing")
        return Observation(f"{seen}; it has no Guest Additions that could say more")

    def _run(self, *arguments: str) -> None:
        self._patiently(lambda: self._vboxmanage.run(*arguments))

    def _patiently(self, ask: Callable[[], _Answer]) -> _Answer:
        """Asks VirtualBox, and waits while somebody who only looks at the VM (a GUI) holds it."""
        end = self._clock.monotonic() + _LOCKED_SECONDS
        while True:
            try:
                return ask()
            except VBoxManageError as error:
                if (
                    not any(text in error.message for text in _LOCKED)
                    or self._clock.monotonic() >= end
                ):
                    raise
                self._clock.sleep(_POLL_SECONDS)

    def _shown(self) -> str:
        return self._vboxmanage.read("showvminfo", self._uuid, "--machinereadable")

    def _property(self, name: str) -> str:
        match = _VALUE.search(
            self._patiently(lambda: self._vboxmanage.read("guestproperty", "get", self._uuid, name))
        )
        return match[1].strip() if match else ""

    def _disk_times(self) -> tuple[int, ...]:
        paths = [path for image in self._machine.images for path in files_of(image)]
        return tuple(os.stat(path).st_mtime_ns for path in paths if os.path.exists(path))


def processor_seconds(uuid: str) -> float | None:
    """Processor time that the process of a running VM has used; None if it cannot be seen."""
    for process in psutil.process_iter(["name", "cmdline"]):
        if str(process.info["name"]).startswith("VBox") and uuid in (process.info["cmdline"] or []):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            return float(times.user + times.system)
    return None
