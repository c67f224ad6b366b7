"""Which engine exports a VM, and which takes its place when it fails.

The parallel one where it can, else VBoxManage, with the reason.

An attempt that fails through no fault of the VM or the NAS is made again in a more modest way:
everything is sent where bytes of the copy before were to be copied, and with `engine = "auto"`
VBoxManage exports what the parallel engine could not. So neither a fault of this engine nor a copy
before that has rotted can lose a backup.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from shared.host.clock import Clock
from shared.host.configuration import VmPolicy
from shared.host.errors import CopyError
from shared.ova.check import CheckStoppedError
from shared.site import Site
from shared.virtualbox.export import (
    ExportAbandonedError,
    ExportCanceledError,
    Exporter,
    ExportError,
    ExportTargetError,
    VBoxManageExporter,
    VmBusyError,
    VmRunsError,
)
from shared.virtualbox.inventory import Machine
from worker.backup.delta import Delta

log: Final = logging.getLogger(__name__)

_OF_THE_VM_OR_THE_NAS: Final = (
    VmRunsError,
    VmBusyError,
    ExportCanceledError,
    ExportAbandonedError,
    ExportTargetError,
    CheckStoppedError,
)


@dataclass(frozen=True, slots=True)
class Modesty:
    """What an attempt does without, and why.

    `whole` copies nothing from the copy before, `vboxmanage` is not the parallel engine.
    """

    whole: str = ""
    vboxmanage: str = ""


class EngineFaultError(CopyError):
    """An export that failed, and may succeed in the way that `modesty` says."""

    def __init__(self, message: str, hint: str, modesty: Modesty) -> None:
        super().__init__(message, hint=hint)
        self.modesty = modesty


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine. `reason` says why it is not the parallel one, if that was wanted.

    `whole` why it sends everything, if that is known.

    `instead` is what may be tried if it fails, if anything.
    """

    exporter: Exporter
    reason: str = ""
    whole: str = ""
    instead: Literal["", "whole", "vboxmanage"] = ""

    @contextlib.contextmanager
    def judged(self) -> Iterator[None]:
        """Around the export and the check of its result.

        Raises `EngineFaultError` for a failure after which `instead` may be tried.
        """
        try:
            yield
        except (ExportError, CopyError) as error:
            if not self.instead or isinstance(error, _OF_THE_VM_OR_THE_NAS):
                raise
            failed = (
                "copying what the copy before holds"
                if self.instead == "whole"
                else "the parallel engine"
            )
            message = f"{failed} failed: {error.message}"
            raise EngineFaultError(
                message, error.hint, Modesty(**{self.instead: message})
            ) from error


def choose_engine(
    site: Site, policy: VmPolicy, machine: Machine, delta: Delta, modesty: Modesty
) -> Choice:
    """The engine for a VM.

    Raises `CopyError` if the policy insists on the parallel one and that cannot read its disks.
    """
    if policy.engine == "vboxmanage":
        return Choice(VBoxManageExporter(site.vboxmanage))
    reason = _refusal(machine, site.clock, modesty)
    if reason and policy.engine == "parallel":
        raise _refused(reason)
    if reason:
        return Choice(VBoxManageExporter(site.vboxmanage), reason)
    from shared.export.parallel import ParallelExporter

    cores = site.configuration.backup.cores or available_cores()
    scratch = Path(
        machine.settings_file
    ).parent  # local, and seen by VirtualBox under the same path, wherever it runs
    parallel = ParallelExporter(
        site.vboxmanage, site.clock, scratch=scratch, cores=cores, plan=delta.plan
    )
    if delta.plan is not None and delta.plan.previous is not None:
        return Choice(parallel, instead="whole")
    return Choice(
        parallel, whole=delta.reason, instead="vboxmanage" if policy.engine == "auto" else ""
    )


def require_engine(policy: VmPolicy, machine: Machine, clock: Clock, modesty: Modesty) -> None:
    """Raises `CopyError` if the policy insists on the parallel engine and that cannot read the disks of the VM, as they are now.

    Of a VM that runs this is a first look: `choose_engine` has the last word, when it stands still.
    """
    if policy.engine == "parallel" and (reason := _refusal(machine, clock, modesty)):
        raise _refused(reason)


def _refused(reason: str) -> CopyError:
    return CopyError(
        f"the parallel engine cannot export it: {reason}",
        hint='engine = "auto" lets VBoxManage do it instead',
    )


def _refusal(machine: Machine, clock: Clock, modesty: Modesty) -> str:
    """Why the parallel engine cannot export a VM.

    Whatever goes wrong in finding out is a reason, and no more.
    """
    if modesty.vboxmanage:
        return modesty.vboxmanage
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


def available_cores() -> int:
    """The processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
