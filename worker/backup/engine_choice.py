"""Which engine exports a VM, and the export by it, watched to its end.

The parallel engine where it can, else VBoxManage, with the reason. Progress, growth, room and the
claim are watched; the thread that decides never touches the NAS, so a dead NAS cannot hold it up.
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.copies.space_needed import human
from shared.export.exporter import Exporter, RunningExport, Traffic, VBoxManageExporter
from shared.host.clock import Clock
from shared.host.configuration import VmPolicy
from shared.host.errors import CopyError
from shared.host.kernel import available_cores
from shared.host.logs import NOTICE
from shared.ova.compression import slowness
from shared.site import Site
from shared.state.sessions.holding import Holding
from shared.virtualbox.export_checks import DiskUse, disk_use, refuse_written_elsewhere
from shared.virtualbox.export_errors import ExportError, VmBusyError, VmRunsError
from shared.virtualbox.inventory import Machine
from worker.backup.delta_choice import DeltaChoice
from worker.backup.fallback import WITHOUT_DELTA, WITHOUT_PARALLEL, Fallback, Retry
from worker.backup.priority import ExportPriority
from worker.backup.watcher import LOOK_SECONDS, NasWatcher
from worker.backup.work import Subject

if TYPE_CHECKING:
    from shared.export.freezing import Freezer

log: Final = logging.getLogger(__name__)

#: How long to wait for VBoxManage to cancel an export: it does so when the disk is a percent
#: further (1 s for 2 GB). One that takes longer ends all the same, and is waited for next time.
CANCEL_SECONDS: Final = 60.0
_SHORTEST_POLL: Final = 0.02
_LONGEST_POLL: Final = 1.0


@dataclass(frozen=True, slots=True)
class ChosenEngine:
    """An engine.

    `reason` says why it is not the parallel one, if that was wanted; `whole` why it sends
    everything, if that is known; `retry` what may be left out if it fails, if anything.
    """

    exporter: Exporter
    reason: str = ""
    whole: str = ""
    retry: Retry | None = None


def choose_engine(
    site: Site,
    policy: VmPolicy,
    machine: Machine,
    delta: DeltaChoice,
    fallback: Fallback,
    freezer: "Freezer | None" = None,
) -> ChosenEngine:
    """The engine for a VM, which the `freezer` freezes if that engine and its disks let it.

    Raises `CopyError` if the policy insists on the parallel one and that cannot read its disks.
    """
    reason = _refusal(machine, site.clock, fallback) if policy.engine != "vboxmanage" else ""
    if reason and policy.engine == "parallel":
        raise _refused(reason)
    if reason or policy.engine == "vboxmanage":
        return ChosenEngine(VBoxManageExporter(site.vboxmanage), reason)
    from shared.export.parallel import ParallelExporter

    cores = site.configuration.backup.cores or available_cores()
    scratch = Path(
        machine.settings_file
    ).parent  # local, and seen by VirtualBox under the same path, wherever it runs
    parallel = ParallelExporter(
        site.vboxmanage,
        site.clock,
        scratch=scratch,
        cores=cores,
        plan=delta.plan,
        freezer=freezer,
        digests=delta.digests,
        pace=site.pace,
    )
    if missing := slowness(parallel.codec):  # of no single VM: a tick says it once
        log.warning("the parallel engine %s", missing)
    if delta.plan is not None and delta.plan.previous is not None:
        return ChosenEngine(parallel, retry=WITHOUT_DELTA)
    return ChosenEngine(
        parallel,
        whole=delta.reason,
        retry=WITHOUT_PARALLEL if policy.engine == "auto" else None,
    )


def expected_engine(policy: VmPolicy, machine: Machine, clock: Clock) -> tuple[str, str]:
    """The engine that would export a VM as it stands, and why it is that one.

    Raises `CopyError` like `require_engine`. Of a VM that runs it is what is known by now: its
    disks are looked at again when they stand still.
    """
    if policy.engine == "vboxmanage":
        return "VBoxManage", "engine is vboxmanage"
    require_engine(policy, machine, clock, Fallback())
    if reason := _refusal(machine, clock, Fallback()):
        return "VBoxManage", f"the parallel engine cannot: {reason}"
    return "the parallel engine", "it can read all of its disks"


def require_engine(policy: VmPolicy, machine: Machine, clock: Clock, fallback: Fallback) -> None:
    """Raises `CopyError` if the policy insists on the parallel engine and that cannot export it.

    Of a VM that runs this is a first look: `choose_engine` has the last word, when it stands still.
    """
    if policy.engine == "parallel" and (reason := _refusal(machine, clock, fallback)):
        raise _refused(reason)


def _refused(reason: str) -> CopyError:
    return CopyError(
        f"the parallel engine cannot export it: {reason}",
        hint='engine = "auto" lets VBoxManage do it instead',
    )


def _refusal(machine: Machine, clock: Clock, fallback: Fallback) -> str:
    """Why the parallel engine cannot export a VM.

    Whatever goes wrong in finding out is a reason, and no more.
    """
    if fallback.no_parallel:
        return fallback.no_parallel
    try:
        from shared.export.eligibility import check_eligibility

        return check_eligibility(machine, clock).reason
    except (
        Exception
    ) as error:  # a fault of the engine, which must not keep VBoxManage from its work
        log.warning(
            "the parallel engine failed to look at the disks of %s", machine.uuid, exc_info=True
        )
        return f"it failed to look at the disks: {error!r}"


class EngineRun:
    """One export by an engine, watched to its end.

    `guard` is called at its beginning and then now and then: raises if it must be given up.
    """

    def __init__(
        self, site: Site, held: Holding, exporter: Exporter, guard: Callable[[], None]
    ) -> None:
        self._site, self._held, self._exporter, self._guard = site, held, exporter, guard
        self._session, self._key = held.session, held.key

    def run(self, subject: Subject, target: Path) -> Traffic:
        """Returns when `target` is exported: how its bytes came there.

        Raises what went wrong, with the export cancelled and nobody working on the VM: what the
        guard raises, `VmRunsError` if the VM runs, `LockLostError` if this worker was displaced,
        `NasError`, `VBoxManageError`, `CopyError`.
        """
        self._wait_until_free(subject.machine)
        doing = self._session.doing
        doing.phase = "export"
        export = self._exporter.start(subject.machine, target, vm_name=subject.vm_name)
        doing.child = export.identity
        priority = ExportPriority(target, self._site.configuration.backup.nice, export.identity)
        watcher = NasWatcher(self._site, self._held, export, priority)
        watcher.start()
        try:
            self._follow(export, watcher)
        except BaseException:
            self._cancel(export)
            raise
        finally:
            watcher.stop()
            doing.child = doing.rate = doing.seconds_left = None
        return export.result()

    def _cancel(self, export: RunningExport) -> None:
        if export.cancel(CANCEL_SECONDS):
            with contextlib.suppress(ExportError):
                export.result()
        else:
            log.warning(
                "VBoxManage does not cancel the export; it is left alone and waited for next time",
                extra={"vm": self._key},
            )

    def _wait_until_free(self, machine: Machine) -> None:
        """Waits for an export that a killed worker left running.

        VirtualBox goes on with it, and lets nobody start the VM meanwhile.
        """
        backup, clock = self._site.configuration.backup, self._site.clock
        end = clock.monotonic() + backup.retry_seconds
        while (use := disk_use(self._site.vboxmanage, machine)) is not DiskUse.FREE:
            if use is DiskUse.WRITTEN:
                refuse_written_elsewhere(machine, self._site.inventory().values())
                raise VmRunsError(f"{self._key}: its disks are being written")
            if clock.monotonic() >= end:
                raise VmBusyError(
                    f"{self._key}: an earlier export of it still runs in VirtualBox",
                    hint="it ends by itself; the next tick looks again",
                )
            what = "waiting for an earlier export of this VM to end, %.0f s at most"
            log.log(NOTICE, what, end - clock.monotonic(), extra={"vm": self._key})
            self._session.check()
            clock.sleep(min(backup.retry_interval_seconds, LOOK_SECONDS))

    def _follow(self, export: RunningExport, watcher: NasWatcher) -> None:
        clock, doing = self._site.clock, self._session.doing
        began = clock.monotonic()
        self._guard()
        while not export.poll():
            elapsed = clock.monotonic() - began
            clock.sleep(min(_LONGEST_POLL, max(_SHORTEST_POLL, elapsed / 50)))
            doing.percent, doing.bytes_done, doing.child = (
                export.progress(),
                watcher.size,
                export.identity,
            )
            doing.rate = round(watcher.size / elapsed) if watcher.size else None
            doing.seconds_left = (
                round(elapsed * (100 - doing.percent) / doing.percent) if doing.percent else None
            )
            self._session.check()
            self._guard()
            if watcher.problem is not None:
                raise watcher.problem
            stalled = clock.monotonic() - watcher.grown_at
            if stalled > self._site.configuration.backup.stall_seconds:
                raise CopyError(
                    (
                        f"the export has not grown for {stalled:.0f} s (it has "
                        f"{human(watcher.size)}) and was cancelled"
                    ),
                    hint="look at the host's disk and the NAS; backup.stall_seconds sets the limit",
                )
