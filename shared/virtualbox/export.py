"""Exports of VMs that run in the background: start, watch, cancel, and find out how they ended.

Measured on VirtualBox 7.2.22: VBoxSVC does the work, VBoxManage only shows its progress. SIGINT and SIGTERM make VBoxManage cancel it
within a second and remove the file. After SIGKILL VBoxSVC goes on to the end by itself and holds the VM as long; VBoxSVC itself must
never be ended, since that kills all running VMs of its user.
"""

import os
import re
import signal
import subprocess
import threading
from enum import StrEnum, unique
from pathlib import Path
from typing import IO, Final, Protocol

from shared.process import Completed, ProcessIdentity
from shared.virtualbox.inventory import Machine
from shared.virtualbox.problems import (
    ExportAbandonedError,
    ExportCanceledError,
    ExportError,
    ExportTargetError,
    VmBusyError,
    VmRunsError,
    export_problem,
)
from shared.virtualbox.vboxmanage import VBoxManage, cannot_start

__all__ = [
    "DiskUse",
    "ExportAbandonedError",
    "ExportCanceledError",
    "ExportError",
    "ExportTargetError",
    "Exporter",
    "RunningExport",
    "VBoxManageExport",
    "VBoxManageExporter",
    "VmBusyError",
    "VmRunsError",
    "disk_use",
]

_PERCENT: Final = re.compile(r"(\d{1,3})%")
_TAIL_BYTES: Final = 2**16


class RunningExport(Protocol):
    """An export that was started. Whoever started it polls it to its end, or cancels it."""

    @property
    def identity(self) -> ProcessIdentity | None:
        """The process that runs it, to be noted where others can find it; None if it ended at once."""

    def progress(self) -> int:
        """Percent done, as its engine reports it."""

    def size(self) -> int:
        """Bytes of the file so far. Asks the file system of the target."""

    def poll(self) -> bool:
        """Whether it has ended, well or not."""

    def cancel(self, timeout_seconds: float) -> bool:
        """Asks it to stop and waits at most so long; answers whether it has ended. It may have succeeded in the meantime."""

    def result(self) -> None:
        """Returns if it succeeded. Raises `ExportError` if not; only to be called when it has ended."""


class Exporter(Protocol):
    """Something that exports VMs."""

    name: str

    def start(self, machine: Machine, target: Path, *, vm_name: str | None = None) -> RunningExport:
        """Starts to export a stopped VM to `target`, an absolute path ending in `.ova` where there is nothing yet.

        `vm_name`: the name that the VM has in the copy, if not its own (what is exported is a clone).

        Raises `VBoxManageError` if it cannot be started. All other failures are told by `RunningExport.result`.
        """


class VBoxManageExporter:
    """`VBoxManage export`: the reference. One core for one VM."""

    name = "vboxmanage"

    def __init__(self, vboxmanage: VBoxManage) -> None:
        self._vboxmanage = vboxmanage

    def start(self, machine: Machine, target: Path, *, vm_name: str | None = None) -> "VBoxManageExport":
        """See `Exporter.start`. OVF 2.0 for a manifest with SHA-256; without `--manifest` there would be none."""
        arguments = [self._vboxmanage.program, "export", machine.uuid, "--ovf20", "--manifest", f"--output={target}"]
        if vm_name is not None:
            arguments += ["--vsys", "0", f"--vmname={vm_name}"]
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,  # on a terminal it would wait for the password of an encrypted disk
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **self._vboxmanage.environment},
                start_new_session=True,  # ^C in the worker's terminal is the worker's business
            )
        except OSError as error:
            raise cannot_start(self._vboxmanage.program, error) from None
        return VBoxManageExport(process, target)


class VBoxManageExport:
    """A running `VBoxManage export`. See `RunningExport`."""

    def __init__(self, process: "subprocess.Popen[bytes]", target: Path) -> None:
        self._process, self._target = process, target
        self._stdout, self._stderr = _Tail(process.stdout), _Tail(process.stderr)
        self.identity = ProcessIdentity.of(process.pid)

    def progress(self) -> int:
        """See `RunningExport.progress`; 0 before it says anything."""
        found = _PERCENT.findall(self._stderr.text())
        return min(int(found[-1]), 100) if found else 0

    def size(self) -> int:
        """See `RunningExport.size`; 0 as long as there is no file."""
        try:
            return os.stat(self._target).st_size
        except FileNotFoundError:
            return 0

    def poll(self) -> bool:
        """See `RunningExport.poll`."""
        return self._process.poll() is not None

    def cancel(self, timeout_seconds: float) -> bool:
        """See `RunningExport.cancel`. INT, then TERM; never KILL, which would leave VBoxSVC exporting with nobody watching."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._process.send_signal(number)
            try:
                self._process.wait(timeout_seconds / 2)
            except subprocess.TimeoutExpired:
                continue
            return True
        return False

    def result(self) -> None:
        """See `RunningExport.result`."""
        status = self._process.poll()
        if status is None:
            raise ExportError("the export still runs")
        stdout, stderr = self._stdout.whole(), self._stderr.whole()
        if problem := export_problem(Completed(("VBoxManage", "export"), status, stdout, stderr)):
            raise problem


class _Tail:
    """The last bytes of a stream, read by a thread of its own, so that the writer is never held up."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        if stream is None:
            raise ValueError("the process has no such stream")
        self._stream, self._data = stream, b""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with self._stream:
            while chunk := os.read(self._stream.fileno(), _TAIL_BYTES):
                self._data = (self._data + chunk)[-_TAIL_BYTES:]

    def text(self) -> str:
        """What is known so far."""
        return self._data.decode("utf-8", errors="backslashreplace")

    def whole(self) -> str:
        """All of it, once the process has ended. The wait is bounded: something that it started may keep the stream open."""
        self._thread.join(timeout=5)
        return self.text()


@unique
class DiskUse(StrEnum):
    """Who works with the disks of a VM, as far as VirtualBox knows."""

    #: Nobody.
    FREE = "free"
    #: They are read. If the VM is off, that is an export (also one whose VBoxManage was killed) or a copy being made of them.
    READ = "read"
    #: They are written: the VM runs, or a snapshot is merged.
    WRITTEN = "written"


def disk_use(vboxmanage: VBoxManage, machine: Machine) -> DiskUse:
    """Asks for each disk of the VM. Raises `VBoxManageError`.

    That is the only way to see an export whose VBoxManage was killed: `showvminfo` says `poweroff` and no more.
    Only the images that the VM itself writes to count: what they are based on is also read by linked clones that run.
    """
    states = {vboxmanage.medium_state(chain[0].uuid) for chain in machine.chains}
    if "locked write" in states:
        return DiskUse.WRITTEN
    return DiskUse.READ if "locked read" in states else DiskUse.FREE
