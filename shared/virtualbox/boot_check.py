"""Starting a VM on trial: watched for a while, and taken away.

The copy of a server must not meet the server: a VM is given to this module only after its settings
were written anew with what may stay (`shared.virtualbox.trial_settings`).
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import psutil

from shared.host.clock import Clock
from shared.host.errors import UsageError, VBoxManageError, VBoxManageTimeoutError
from shared.virtualbox import host_faults
from shared.virtualbox.inventory import Machine
from shared.virtualbox.patience import patiently
from shared.virtualbox.power import PowerSwitch
from shared.virtualbox.storage import files_of
from shared.virtualbox.unregistering import unregister
from shared.virtualbox.vboxmanage import VBoxManage

_VALUE: Final = re.compile(r"^Value: (.*)$", re.MULTILINE)

#: Set by Guest Additions when the guest has come up; stays in the settings afterwards, so that it
#: must be deleted before a start.
_PRODUCT: Final = "/VirtualBox/GuestInfo/OS/Product"
_ADDITIONS: Final = "/VirtualBox/GuestAdd/Version"
_POLL_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 60.0
_OFF: Final = frozenset({"poweroff", "aborted"})
#: How long a start may take that reads no memory from a disk: longer than any that was seen.
_START_SECONDS: Final = 180.0


_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of a VM that was started on trial.

    `problem` says why it does not count as come up; empty: it does.
    """

    text: str
    problem: str = ""


def processes_of(uuid: str) -> Iterator[psutil.Process]:
    """The processes in which a VM runs."""
    for process in psutil.process_iter(["name", "cmdline"]):
        name, words = str(process.info["name"]), process.info["cmdline"] or []
        if name.startswith("VBox") and not name.startswith("VBoxManage") and uuid in words:
            yield process


class BootCheck:
    """One VM on trial. All methods raise `VBoxManageError`.

    `processes`: those in which the VM of a UUID runs.
    """

    def __init__(
        self,
        vboxmanage: VBoxManage,
        clock: Clock,
        machine: Machine,
        *,
        processes: Callable[[str], Iterable[psutil.Process]] = processes_of,
    ) -> None:
        self._vboxmanage, self._clock = vboxmanage, clock
        #: The VM on trial, as it was made.
        self.machine = machine
        self._processes = processes
        self._uuid = machine.uuid

    def change(self, settings: Sequence[tuple[str, str]]) -> None:
        """Changes settings by their names in `VBoxManage modifyvm`.

        Raises `UsageError` if VirtualBox refuses that: it is the operator's wish, and no fault of
        the copy; `VBoxManageError` if the host is at fault.
        """
        if not settings:
            return
        try:
            self._run("modifyvm", self._uuid, *(f"--{name}={value}" for name, value in settings))
        except VBoxManageError as error:
            if host_faults.is_of_host(error):
                raise
            raise UsageError(
                f"VirtualBox does not take the settings of --set: {error.message}",
                hint="nothing was noted of the copy; `VBoxManage modifyvm` without more names them",
            ) from None

    def start_and_watch(self, seconds: float) -> Observation:
        """Starts the VM without a screen and watches it.

        Until its Guest Additions answer, if it had any, else for so many seconds. A start that
        hangs is a problem of the copy, like a guest that does not come up.
        """
        additions = self._property(_ADDITIONS)
        self._run("guestproperty", "delete", self._uuid, _PRODUCT)
        before = self._disk_times()
        try:
            self._patiently(self._start)
        except VBoxManageTimeoutError:
            return Observation("", f"it did not start within {_START_SECONDS:.0f} s")
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

    def take_screenshot(self, file: Path) -> None:
        """Writes what the screen of the running VM shows into a new file, as a PNG image."""
        self._vboxmanage.run("controlvm", self._uuid, "screenshotpng", str(file))

    def remove(self) -> None:
        """Switches the VM off and unregisters it.

        Its files stay, to be removed with their folder by whoever made that.

        `unregistervm --delete` would delete every disk that is attached by now, whosever it is.
        """
        if not self._patiently(lambda: self._vboxmanage.info(self._uuid)).stopped:
            self._switch_off()
        unregister(self._vboxmanage, self._clock, self._uuid, self.machine.settings_file)

    def _start(self) -> None:
        self._vboxmanage.run_long(_START_SECONDS, "startvm", self._uuid, "--type=headless")

    def _switch_off(self) -> None:
        """Switches it off; if it does not obey, as one that hangs at its start, ends its process.

        It is a VM that this program made: it has nothing to lose.
        """
        switch = PowerSwitch(self._vboxmanage, self._clock)
        try:
            self._run("controlvm", self._uuid, "poweroff")
            switch.wait_for(self._uuid, _OFF, _STOP_SECONDS)
        except VBoxManageError:
            for process in self._processes(self._uuid):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            switch.wait_for(self._uuid, _OFF, _STOP_SECONDS)

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
        return patiently(self._clock, ask)

    def _property(self, name: str) -> str:
        match = _VALUE.search(
            self._patiently(lambda: self._vboxmanage.read("guestproperty", "get", self._uuid, name))
        )
        return match[1].strip() if match else ""

    def _disk_times(self) -> tuple[int, ...]:
        paths = [path for image in self.machine.images for path in files_of(image)]
        return tuple(os.stat(path).st_mtime_ns for path in paths if os.path.exists(path))


def processor_seconds(uuid: str) -> float | None:
    """Processor time that the process of a running VM has used; None if it cannot be seen."""
    for process in processes_of(uuid):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        return float(times.user + times.system)
    return None
