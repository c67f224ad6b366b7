"""A simulated host, a NAS directory and a state database, driven in this process."""

from pathlib import Path

import pytest

from shared.copies.archive_marker import prepare_archive
from shared.copies.copy_files import NasFiles
from shared.host.clock import SystemClock
from shared.host.configuration import Configuration, Nas
from shared.host.host_identity import HostIdentity
from shared.site import Site, open_site
from shared.state.records import VmRecord
from shared.state.store.create import create
from tests.support.simulated import SimulatedHost
from worker import notifier, vmfind
from worker.backup import power_notes
from worker.backup.plan import plan

LEASE_SECONDS = 2.0


class Rig:
    """One NAS, any number of simulated hosts, and their sites."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.nas = folder, folder / "nas"
        self.nas.mkdir()
        made = create(
            self.nas / "vmstate",
            HostIdentity.of_this_machine("first"),
            SystemClock(),
            LEASE_SECONDS,
        )
        prepare_archive(
            NasFiles(), Nas(mountpoint=self.nas, require_mount=False), made.version.repository
        )
        self.hosts: dict[str, SimulatedHost] = {}
        #: The `[policy."PATTERN"]` tables of all hosts.
        self.policies: dict[str, dict[str, object]] = {}

    def host(self, name: str = "alpha") -> SimulatedHost:
        """The host of that name, made when it is first asked for."""
        if name not in self.hosts:
            self.hosts[name] = SimulatedHost(self.folder / "hosts", name)
        return self.hosts[name]

    def site(self, name: str = "alpha", **backup: object) -> Site:
        """What a worker of that host works with; keyword arguments are settings of `[backup]`."""
        host = self.host(name)
        settings = {
            "engine": "vboxmanage",
            "retry_seconds": 0,
            "retry_interval_seconds": 0.05,
            "stall_seconds": 60,
            **backup,
        }
        configuration = Configuration.model_validate(
            {
                "nas": {"mountpoint": self.nas, "require_mount": False, "reserve": 0},
                "host": {"node": name, "state_directory": self.folder / f"state-{name}"},
                "virtualbox": {"vboxmanage": str(host.vboxmanage), "home": host.home},
                "backup": settings,
                "policy": self.policies,
            }
        )
        return open_site(configuration, SystemClock())

    def look(self, name: str = "alpha") -> Site:
        """Runs vmfind and notifier. Returns the site."""
        site = self.site(name)
        vmfind.run(site)
        notifier.run(site)
        return site

    def note_power(self, key: str, name: str = "alpha") -> None:
        """What the host notes itself of what a backup did to a VM, as its record says it."""
        site, record = self.site(name), self.record(key)
        assert record.power is not None
        head = site.database.head()
        power_notes.remember(site, record.uuid, record.power, head.header.session, head)

    def record(self, key: str) -> VmRecord:
        """What the database says of a VM now."""
        return next(iter([self.site().database.head().contents.vms[key]]))

    def files(self, key: str) -> list[str]:
        """All files in the directory of a VM."""
        return sorted(path.name for path in (self.nas / self.record(key).directory).iterdir())


@pytest.fixture
def rig(tmp_path: Path, probe_in_this_process: None) -> Rig:
    """See `Rig`."""
    return Rig(tmp_path)


def planned(site: Site, only: str | None = None, *, now: bool = False) -> list[str]:
    """The keys of the VMs that a backup worker would back up, in order."""
    return [each.vm for each in plan(site, only, now=now) if not each.waits]
