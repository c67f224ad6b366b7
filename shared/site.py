"""One host's view of one NAS: everything a worker or a command needs, opened in the safe order."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from shared.copies import claim_numbers, directories
from shared.copies.copy_files import NasFiles, modes_for
from shared.copies.known_archive import KnownArchive
from shared.host.clock import Clock
from shared.host.configuration import UNFINISHED, BackupRule, Configuration, VmPolicy, decide
from shared.host.errors import ConfigurationError, NoDatabaseError, VmBackupError
from shared.host.hedging import HedgingRunner
from shared.host.host_identity import HostIdentity
from shared.host.processes import SubprocessRunner
from shared.host.rate_limit import Pace, RateLimit
from shared.nas.mount import NasStatus, check_nas
from shared.nas.overlap import first_name_below
from shared.nas.repository import check_repository
from shared.state.record_fields import is_directory_name
from shared.state.records import VmRecord
from shared.state.states import State
from shared.state.store.database import Database
from shared.state.store.opening import open_database
from shared.virtualbox import settings
from shared.virtualbox.inventory import Machine, take_inventory, take_one
from shared.virtualbox.vboxmanage import VBoxManage

log: Final = logging.getLogger(__name__)

#: A VBoxManage that is ended while it holds a VM that is off leaves that `aborted`. Nearly all end
#: sooner by themselves, also those that sleep in their own shutdown, or stood still with all else.
_PATIENCE_SECONDS: Final = 12.0


@dataclass
class Site:
    """A host, its NAS, and the state database there. Get it from `open_site`."""

    configuration: Configuration
    clock: Clock
    identity: HostIdentity
    database: Database
    nas: NasStatus
    files: NasFiles = field(default_factory=NasFiles)
    #: Opened for looking only: nothing is remembered on this host.
    reading: bool = False

    @property
    def node(self) -> str:
        """This host's name."""
        return self.identity.node

    @cached_property
    def vboxmanage(self) -> VBoxManage:
        """VBoxManage of this host."""
        configured = self.configuration.virtualbox
        environment = {}
        if configured.home != Path():
            environment["VBOX_USER_HOME"] = str(settings.home(configured.home, os.environ))
        return VBoxManage(
            configured.vboxmanage,
            SubprocessRunner(_PATIENCE_SECONDS),
            configured.timeout_seconds,
            environment,
            self.clock,
            asking=HedgingRunner(patience_seconds=_PATIENCE_SECONDS),
        )

    def pace(self, should_stop: Callable[[], bool] = lambda: False) -> Pace:
        """How fast this host may send what it exports, and read what it verifies.

        `should_stop` ends what waits for its turn.
        """
        return self._rate_limit.pace(should_stop)

    @cached_property
    def _rate_limit(self) -> RateLimit:
        backup, host = self.configuration.backup, self.configuration.host
        return RateLimit(host.state_directory, backup.bytes_per_second, self.clock)

    def inventory(self) -> Mapping[str, Machine]:
        """The VMs of this host as they are now, by UUID. Raises `VBoxManageError`."""
        home = settings.home(self.configuration.virtualbox.home, os.environ)
        return take_inventory(self.vboxmanage, home, self.clock.sleep)

    def machine(self, uuid: str) -> Machine | None:
        """One VM as it is now; None if it is not registered. Raises `VBoxManageError`.

        The other VMs of this host cost nothing, unless one of their settings names its disk.
        """
        home = settings.home(self.configuration.virtualbox.home, os.environ)
        found = take_one(self.vboxmanage, home, self.clock.sleep, uuid)
        return found or self.inventory().get(uuid)

    def policy(self, record: VmRecord) -> VmPolicy:
        """What this host's configuration says of a VM."""
        return self.configuration.policy_for(record.name, record.groups)

    def backup_rule(self, record: VmRecord) -> BackupRule:
        """Whether this host's configuration leaves a VM out of backups, and by which rule."""
        if record.left_out == UNFINISHED:
            return BackupRule(left_out=True, rule=UNFINISHED)
        return decide(self.configuration, record.name, record.groups, record.wish)

    def directory(self, record: VmRecord) -> Path:
        """Where the copies of a VM that is not archived are.

        Raises `UnusableRecordError` if its record names no directory of a VM.
        """
        return self.configuration.nas.mountpoint / directories.plain_directory(record)

    def archive_directory(self, record: VmRecord) -> Path:
        """Where the copies of an archived VM are, in an archive that is there and the right one.

        Raises `UnusableRecordError`, and what `archive` raises.
        """
        return self.archive / directories.plain_directory(record)

    def directories(self, record: VmRecord) -> Iterator[tuple[Path, bool]]:
        """The directories with a VM's copies, and whether each is in the archive.

        The archived one comes first, and only if the VM is archived. None, if the VM has no
        directory. Raises like `archive_directory`: an archive that is not mounted looks empty. Of
        unlisted copies nobody knows where they should be: both, as far as one can look.
        """
        if record.taken_in_by:
            yield from self.all_directories(record)[0]
        elif record.directory:
            if record.status == State.ARCHIVED:
                yield self.archive_directory(record), True
            yield self.directory(record), False

    def all_directories(
        self, record: VmRecord
    ) -> tuple[list[tuple[Path, bool]], list[VmBackupError]]:
        """Both directories that may have copies of a VM, and whether each is in the archive.

        Whatever its state. Where one cannot look, the second list says why.
        """
        found: list[tuple[Path, bool]] = []
        problems: list[VmBackupError] = []
        if not record.directory:
            return found, problems
        for where, in_archive in ((self.archive_directory, True), (self.directory, False)):
            try:
                found.append((where(record), in_archive))
            except VmBackupError as error:
                if str(error) not in map(str, problems):
                    problems.append(error)
        return found, problems

    @property
    def archive(self) -> Path:
        """The archive directory, if it is there, apart from all else, and of this repository.

        Looked at once: one that hangs costs its time limit once. Raises `NasError` that says what
        is not mounted, `ConfigurationError` if it is no place for an archive.
        """
        return self._known_archive.directory

    @cached_property
    def _known_archive(self) -> KnownArchive:
        return KnownArchive(self.configuration, self.database, self.files, self.reading)

    def require_archive_no_vm(self) -> None:
        """Makes sure that the archive, which is there, is not the directory of a VM, nor in one.

        Raises like `archive`.
        """
        self._known_archive.require_no_vm()

    def prepare_archive(self) -> None:
        """Makes the archive directory and its marker where an older program has not.

        Only if it can be trusted. Raises like `archive`.
        """
        self._known_archive.prepare()

    def stated_directory(self, record: VmRecord) -> Path | None:
        """Where the copies of a VM should be, for a message: nobody has looked. None if unknown."""
        nas = self.configuration.nas
        top = nas.archive if record.status == State.ARCHIVED else nas.mountpoint
        return top / record.directory if is_directory_name(record.directory) else None

    def reserved_names(self) -> frozenset[str]:
        """The names at the top of the NAS that are the archive's, and no VM's directory.

        Empty if it cannot be looked at.
        """
        nas = self.configuration.nas
        try:
            return first_name_below(nas.mountpoint, nas.archive)
        except OSError:
            return frozenset()

    def floor(self, key: str) -> int:
        """The highest number of a claim in the names of this VM's files, live and archived.

        A new claim on it must be above. That matters where the state database is younger than the
        copies: made anew, or put back. An archive that is not there is passed over.
        """
        record = self.database.head().contents.vms.get(key)
        if record is None or not record.directory:
            return 0
        return claim_numbers.highest_claim(
            directory for directory, _archived in self.all_directories(record)[0]
        )


def open_site(configuration: Configuration, clock: Clock, *, reading: bool = False) -> Site:
    """Opens the state database on the NAS, after a look that it is mounted and the known one.

    With `reading`, one that is mounted read-only will do, and so will a user who may not see what
    this host remembers, and a database of a newer format than this program writes:
    `site.database.warnings` says so. Without, nothing is written to such a one. Raises `NasError`,
    `NoDatabaseError`, `DatabaseVersionError`, `DatabaseDamagedError`, `ConfigurationError`.
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
    return Site(
        configuration,
        clock,
        identity,
        database,
        status,
        NasFiles(modes_for(shared_group=nas.shared_group)),
        reading,
    )


def _check_known(configuration: Configuration, found: str | None, *, reading: bool) -> None:
    try:
        check_repository(configuration.nas, configuration.host.state_directory, found)
    except ConfigurationError as error:
        if not reading:
            raise
        log.info("whether this is the right NAS was not checked: %s", error.message)
