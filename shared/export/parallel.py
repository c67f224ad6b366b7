"""The parallel engine as a backup worker uses it: in place of `VBoxManage export`."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shared.export.delta import DeltaPlan
from shared.export.eligibility import check_eligibility
from shared.export.engine import ExportRequest, ExportSummary, export_vm
from shared.export.exporter import Traffic
from shared.export.freezing import Freezer
from shared.export.pipeline import CompressionSettings, ReadMeter
from shared.export.raw_digests import RawDigests
from shared.host.clock import Clock
from shared.host.errors import NasError, VmBackupError
from shared.host.process_identity import ProcessIdentity
from shared.host.rate_limit import UNLIMITED, Pace
from shared.host.stages import CancelledError
from shared.ova.compression import Codec, best_codec
from shared.ova.vmdk_units import UnitSettings
from shared.virtualbox.export_errors import (
    ExportCanceledError,
    ExportError,
    ExportTargetError,
    VmRunsError,
)
from shared.virtualbox.export_words import exported_as
from shared.virtualbox.inventory import Machine
from shared.virtualbox.vboxmanage import VBoxManage

log: Final = logging.getLogger(__name__)


class ParallelExporter:
    """Reads the disks itself, and compresses them on several cores. An `Exporter`.

    Memory stays below 100 MB. `scratch` is a directory on a local disk, used for less than a second
    at a time. With a `plan` an index is written, too, and what the previous copy holds is copied by
    the NAS: see `shared.export.delta`. With a `freezer` the VM may be started as soon as that has
    frozen it: see `shared.export.freezing`; what could not be frozen is compared by `digests`: see
    `shared.export.compared_disk`. `pace` is how fast an export may send, given what says
    when to stop.
    """

    name = "parallel"

    def __init__(  # noqa: PLR0913 - what may be chosen of an export, mostly not
        self,
        vboxmanage: VBoxManage,
        clock: Clock,
        *,
        scratch: Path,
        cores: int,
        codec: Codec | None = None,
        self_check: bool = True,
        plan: DeltaPlan | None = None,
        freezer: Freezer | None = None,
        digests: RawDigests | None = None,
        pace: Callable[[Callable[[], bool]], Pace] = lambda _should_stop: UNLIMITED,
    ) -> None:
        self._vboxmanage = vboxmanage
        self._clock = clock
        self._scratch = scratch
        self._settings = CompressionSettings(cores, UnitSettings(codec or best_codec(), self_check))
        self._plan = plan
        self._freezer = freezer
        self._digests = digests
        self._pace = pace

    @property
    def codec(self) -> str:
        """What it compresses with."""
        return self._settings.units.codec.name

    def refusal(self, machine: Machine) -> str:
        """Why it cannot export this VM, in words; empty if it can.

        Opens the disk files, takes no lock, changes nothing.
        """
        return check_eligibility(machine, self._clock).reason

    def start(
        self, machine: Machine, target: Path, *, vm_name: str | None = None
    ) -> "ParallelExport":
        """See `Exporter.start`."""
        return ParallelExport(
            target, lambda meter, cancelled: self._run(machine, target, vm_name, meter, cancelled)
        )

    def _run(
        self,
        machine: Machine,
        target: Path,
        vm_name: str | None,
        meter: ReadMeter,
        cancelled: threading.Event,
    ) -> ExportSummary:
        assessment = check_eligibility(machine, self._clock)
        if assessment.reason:
            raise ExportError(f"the parallel engine cannot export this VM: {assessment.reason}")

        def confirm() -> str:
            info = self._vboxmanage.info(machine.uuid)
            if not info.stopped:
                raise VmRunsError(f"the VM is {info.state}")
            return info.name

        request = ExportRequest(
            machine=machine.uuid,
            disks=assessment.disks,
            target=target,
            scratch=self._scratch,
            modified=int(self._clock.now().timestamp()),
            shown=exported_as(machine, vm_name),
            freezer=self._freezer,
            digests=self._digests,
            pace=self._pace(cancelled.is_set),
        )
        return export_vm(
            self._vboxmanage,
            request,
            self._settings,
            confirm=confirm,
            meter=meter,
            cancelled=cancelled,
            plan=self._plan,
        )


class ParallelExport:
    """An export that runs in a thread of this process, and dies with it. See `RunningExport`."""

    def __init__(
        self, target: Path, work: Callable[[ReadMeter, threading.Event], ExportSummary]
    ) -> None:
        self.identity = ProcessIdentity.of(os.getpid())
        self.meter = ReadMeter()
        self._target = target
        self._cancelled = threading.Event()
        self._summary: ExportSummary | None = None
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._summary = work(self.meter, self._cancelled)
            except BaseException as error:
                self._error = error
                if not isinstance(error, (VmBackupError, CancelledError)):
                    log.warning("the parallel engine met what it does not know", exc_info=True)

        self._thread = threading.Thread(target=run, name="engine", daemon=True)
        self._thread.start()

    def progress(self) -> int:
        """See `RunningExport.progress`."""
        return self.meter.percent()

    def size(self) -> int:
        """See `RunningExport.size`; 0 as long as there is no file."""
        try:
            return os.stat(self._target).st_size
        except FileNotFoundError:
            return 0

    def poll(self) -> bool:
        """See `RunningExport.poll`."""
        return not self._thread.is_alive()

    def cancel(self, timeout_seconds: float) -> bool:
        """See `RunningExport.cancel`.

        False means that VirtualBox or the NAS hangs; the thread still ends as soon as that answers.
        """
        self._cancelled.set()
        self._thread.join(timeout_seconds)
        return self.poll()

    def result(self) -> Traffic:
        """See `RunningExport.result`."""
        summary = self.summary()
        return Traffic(
            summary.copied_bytes, summary.sent, summary.unread, summary.index, summary.parts
        )

    def summary(self) -> ExportSummary:
        """What was written.

        Raises `ExportError` if the export failed; only to be called when it has ended.
        """
        if self._summary is not None:
            return self._summary
        error = self._error
        if error is None:
            raise ExportError("the export still runs")
        if isinstance(error, ExportError):
            raise error
        if isinstance(error, CancelledError):
            raise ExportCanceledError("the export was cancelled")
        if isinstance(error, VmBackupError):
            kind = ExportTargetError if isinstance(error, NasError) else ExportError
            raise kind(f"export failed: {error.message}", hint=error.hint) from error
        if isinstance(
            error, Exception
        ):  # a fault of this engine, which must not keep anybody from exporting the VM otherwise
            raise ExportError(f"a fault of this program: {error!r}") from error
        raise error
