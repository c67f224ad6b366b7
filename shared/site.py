"""One host's view of one NAS: everything a worker or a command needs, opened in the safe order."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from shared.clock import Clock
from shared.config import Configuration
from shared.copies.files import NasFiles, modes_for
from shared.copies.mount import NasStatus, check_nas
from shared.copies.repository import check_repository
from shared.errors import ConfigurationError, NoDatabaseError
from shared.process import HostIdentity, SubprocessRunner
from shared.statedb.database import Database, open_database
from shared.statedb.records import VmRecord
from shared.virtualbox import settings
from shared.virtualbox.inventory import Machine, take_inventory
from shared.virtualbox.vboxmanage import VBoxManage

log: Final = logging.getLogger(__name__)


@dataclass
class Site:
    """A host, its NAS, and the state database there. Get it from `open_site`."""

    configuration: Configuration
    clock: Clock
    identity: HostIdentity
    database: Database
    nas: NasStatus
    files: NasFiles = field(default_factory=NasFiles)

    @property
    def node(self) -> str:
        """This host's name."""
        return self.identity.node

    @cached_property
    def vboxmanage(self) -> VBoxManage:
        """VBoxManage of this host."""
        configured = self.configuration.virtualbox
        environment = {"VBOX_USER_HOME": str(settings.home(configured.home, os.environ))} if configured.home != Path() else {}
        return VBoxManage(configured.vboxmanage, SubprocessRunner(), configured.timeout_seconds, environment, self.clock)

    def inventory(self) -> Mapping[str, Machine]:
        """The VMs of this host as they are now, by UUID. Raises `VBoxManageError`."""
        home = settings.home(self.configuration.virtualbox.home, os.environ)
        return take_inventory(self.vboxmanage, home, self.clock.sleep)

    def directory(self, record: VmRecord) -> Path:
        """Where the copies of a VM that is not archived are."""
        return self.configuration.nas.mountpoint / record.directory

    def archive_directory(self, record: VmRecord) -> Path:
        """Where the copies of an archived VM are."""
        return self.configuration.nas.archive / record.directory


def open_site(configuration: Configuration, clock: Clock, *, reading: bool = False) -> Site:
    """Makes sure that the NAS is mounted, answers, and is the one that this host knows, then opens the state database on it.

    With `reading`, one that is mounted read-only will do, and so will a user who may not see what this host remembers, and a database of
    a newer format than this program writes: `site.database.warnings` says so. Without, nothing is written to such a one. Raises
    `NasError`, `NoDatabaseError`, `DatabaseVersionError`, `DatabaseDamagedError`, `ConfigurationError`.
    """
    nas, host = configuration.nas, configuration.host
    status = check_nas(nas, reading=reading)
    identity = HostIdentity.of_this_machine(host.node, host.state_directory, make=not reading)
    try:
        database = open_database(nas.state, identity, clock, host.state_directory, reading=reading)
    except NoDatabaseError:
        _check_known(configuration, None, reading=reading)
        raise
    _check_known(configuration, database.version.repository, reading=reading)
    return Site(configuration, clock, identity, database, status, NasFiles(modes_for(shared_group=nas.shared_group)))


def _check_known(configuration: Configuration, found: str | None, *, reading: bool) -> None:
    try:
        check_repository(configuration.nas, configuration.host.state_directory, found)
    except ConfigurationError as error:
        if not reading:
            raise
        log.info("whether this is the right NAS was not checked: %s", error.message)
