"""Which engine exports a VM: the parallel one where it can, else VBoxManage, with the reason."""

import os
from dataclasses import dataclass
from pathlib import Path

from shared.config import VmPolicy
from shared.errors import CopyError
from shared.site import Site
from shared.virtualbox.export import Exporter, VBoxManageExporter
from shared.virtualbox.inventory import Machine


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine; `reason` says why it is not the parallel one, if that was wanted."""

    exporter: Exporter
    reason: str = ""


def choose_engine(site: Site, policy: VmPolicy, machine: Machine) -> Choice:
    """The engine for a VM. Raises `CopyError` if the policy insists on the parallel one and that cannot read its disks."""
    if policy.engine == "vboxmanage":
        return Choice(VBoxManageExporter(site.vboxmanage))
    from shared.engine.exporter import ParallelExporter

    cores = site.configuration.backup.cores or available_cores()
    scratch = Path(machine.settings_file).parent  # local, and seen by VirtualBox under the same path, wherever it runs
    parallel = ParallelExporter(site.vboxmanage, site.clock, scratch=scratch, cores=cores)
    reason = parallel.refusal(machine)
    if not reason:
        return Choice(parallel)
    if policy.engine == "parallel":
        raise CopyError(f"the parallel engine cannot export it: {reason}", hint='engine = "auto" lets VBoxManage do it instead')
    return Choice(VBoxManageExporter(site.vboxmanage), reason)


def available_cores() -> int:
    """The processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
