"""What an export engine is, and the one that VirtualBox has: `VBoxManage export`."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from shared.host.process_identity import ProcessIdentity
from shared.virtualbox.background import Background
from shared.virtualbox.export_errors import (
    ExportError,
    export_problem,
)
from shared.virtualbox.export_words import exported_as
from shared.virtualbox.inventory import Machine
from shared.virtualbox.vboxmanage import VBoxManage

if TYPE_CHECKING:
    from shared.ova.parts import MadeParts

_PERCENT: Final = re.compile(r"(\d{1,3})%")


@dataclass(frozen=True, slots=True)
class Traffic:
    """How an export's bytes came to the NAS.

    `copied` bytes the NAS copied from the previous copy, the others were sent. `reason`: why all
    were sent. `unread` bytes of the disks did not change since then, and were not read. `index` is
    the digest of the new copy's index, if it has one; `parts` what the copy is made of, if nobody
    has read all of it.
    """

    copied: int = 0
    reason: str = ""
    unread: int = 0
    index: str = ""
    parts: "MadeParts | None" = None


class RunningExport(Protocol):
    """An export that was started. Whoever started it polls it to its end, or cancels it."""

    @property
    def identity(self) -> ProcessIdentity | None:
        """The process that runs it, to be noted for others; None if it ended at once."""

    def progress(self) -> int:
        """Percent done, as its engine reports it."""

    def size(self) -> int:
        """Bytes of the file so far. Asks the file system of the target."""

    def poll(self) -> bool:
        """Whether it has ended, well or not."""

    def cancel(self, timeout_seconds: float) -> bool:
        """Asks it to stop and waits at most so long; returns whether it has ended.

        It may have succeeded in the meantime.
        """

    def result(self) -> Traffic:
        """How its bytes came to the NAS. Raises `ExportError` if it failed.

        Only to be called when it has ended.
        """


class Exporter(Protocol):
    """Something that exports VMs."""

    name: str

    def start(self, machine: Machine, target: Path, *, vm_name: str | None = None) -> RunningExport:
        """Starts to export a stopped VM to `target`.

        That is an absolute path that ends in `.ova`, where there is nothing yet. `vm_name`: the
        name that the VM has in the copy, if not its own (what is exported is a clone). Raises
        `VBoxManageError` if it cannot be started. All other failures are told by
        `RunningExport.result`.
        """


class VBoxManageExporter:
    """`VBoxManage export`: the reference. One core for one VM."""

    name = "vboxmanage"

    def __init__(self, vboxmanage: VBoxManage) -> None:
        self._vboxmanage = vboxmanage

    def start(
        self, machine: Machine, target: Path, *, vm_name: str | None = None
    ) -> "VBoxManageExport":
        """See `Exporter.start`.

        OVF 2.0 for a manifest with SHA-256; without `--manifest` there would be none.
        """
        arguments = ["export", machine.uuid, "--ovf20", "--manifest", f"--output={target}"]
        arguments += exported_as(machine, vm_name).words()
        return VBoxManageExport(Background(self._vboxmanage, *arguments), target)


class VBoxManageExport:
    """A running `VBoxManage export`. See `RunningExport`."""

    def __init__(self, process: Background, target: Path) -> None:
        self._process, self._target = process, target

    @property
    def identity(self) -> ProcessIdentity | None:
        """See `RunningExport.identity`."""
        return self._process.identity

    def progress(self) -> int:
        """See `RunningExport.progress`; 0 before it says anything."""
        found = _PERCENT.findall(self._process.said())
        return min(int(found[-1]), 100) if found else 0

    def size(self) -> int:
        """See `RunningExport.size`; 0 as long as there is no file."""
        try:
            return os.stat(self._target).st_size
        except FileNotFoundError:
            return 0

    def poll(self) -> bool:
        """See `RunningExport.poll`."""
        return self._process.poll()

    def cancel(self, timeout_seconds: float) -> bool:
        """See `RunningExport.cancel`."""
        return self._process.cancel(timeout_seconds)

    def result(self) -> Traffic:
        """See `RunningExport.result`."""
        completed = self._process.completed()
        if completed is None:
            raise ExportError("the export still runs")
        if problem := export_problem(completed):
            raise problem
        return Traffic(reason="VBoxManage sends everything")
