"""One host's view of one NAS: everything a worker or a command needs, opened in the safe order."""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from shared.copies import archive_marker, catalogue
from shared.copies.archive_location import require_no_vm
from shared.copies.files import NasFiles, modes_for
from shared.copies.names import final_name
from shared.host.clock import Clock
from shared.host.configuration import Configuration
from shared.host.errors import (
    ConfigurationError,
    NoDatabaseError,
    UnusableRecordError,
    VmBackupError,
)
from shared.host.host_identity import HostIdentity
from shared.host.processes import SubprocessRunner
from shared.nas.mount import NasStatus, check_nas
from shared.nas.overlap import first_name_below
from shared.nas.reading import list_fresh
from shared.nas.repository import check_repository, is_archive_noted, note_archive
from shared.state import formats
from shared.state.records import VmRecord, is_directory_name
from shared.state.states import State
from shared.state.store.database import Database
from shared.state.store.opening import open_database
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
        environment = (
            {"VBOX_USER_HOME": str(settings.home(configured.home, os.environ))}
            if configured.home != Path()
            else {}
        )
        return VBoxManage(
            configured.vboxmanage,
            SubprocessRunner(),
            configured.timeout_seconds,
            environment,
            self.clock,
        )

    def inventory(self) -> Mapping[str, Machine]:
        """The VMs of this host as they are now, by UUID. Raises `VBoxManageError`."""
        home = settings.home(self.configuration.virtualbox.home, os.environ)
        return take_inventory(self.vboxmanage, home, self.clock.sleep)

    def directory(self, record: VmRecord) -> Path:
        """Where the copies of a VM that is not archived are.

        Raises `UnusableRecordError` if its record names no directory of a VM.
        """
        return self.configuration.nas.mountpoint / plain_directory(record)

    def archive_directory(self, record: VmRecord) -> Path:
        """Where the copies of an archived VM are, in an archive that is there and the right one.

        Raises `UnusableRecordError`, and what `archive` raises.
        """
        return self.archive / plain_directory(record)

    def directories(self, record: VmRecord) -> Iterator[tuple[Path, bool]]:
        """Where the copies of a VM are, and whether each place is the archive's.

        That first, and only if the VM is archived.

        None if it has no directory. Raises like `archive_directory`: an archive that is not mounted
        looks empty.
        """
        if record.directory:
            if record.status == State.ARCHIVED:
                yield self.archive_directory(record), True
            yield self.directory(record), False

    def all_directories(
        self, record: VmRecord
    ) -> tuple[list[tuple[Path, bool]], list[VmBackupError]]:
        """Everywhere that copies of a VM may be, whatever its state, as far as one can look there, and why one cannot look elsewhere."""
        places: list[tuple[Path, bool]] = []
        problems: list[VmBackupError] = []
        for where, archived in (
            ((self.archive_directory, True), (self.directory, False)) if record.directory else ()
        ):
            try:
                places.append((where(record), archived))
            except VmBackupError as error:
                if str(error) not in map(str, problems):
                    problems.append(error)
        return places, problems

    @property
    def archive(self) -> Path:
        """The archive directory, after a look that it is there, a place of its own, and that of this repository.

        Looked at once, also if it is not: one that hangs costs its time limit once. Raises
        `NasError` that says what is not mounted, `ConfigurationError` if it is no place for an
        archive.
        """
        if self._archive_problem is not None:
            raise self._archive_problem
        return self.configuration.nas.archive

    @cached_property
    def _archive_problem(self) -> VmBackupError | None:
        nas, repository = self.configuration.nas, self.database.version.repository
        try:
            marked = archive_marker.check_archive(
                nas,
                repository,
                known=self._marked,
                lost=self._lost,
                archived=lambda: len(self._archived()),
                directories=self._vm_directories(),
            )
        except VmBackupError as error:
            return error
        if marked and not self.reading:
            self._note_archive()
        return None

    def require_archive_no_vm(self) -> None:
        """Makes sure that the archive, which is there, is not the directory of a VM, nor in one.

        Raises like `archive`.
        """
        _ = self.archive
        require_no_vm(self.configuration.nas, self._vm_directories())

    def _vm_directories(self) -> frozenset[str]:
        contents = self.database.head().contents
        directories = {record.directory for record in contents.vms.values()}
        directories |= {row.directory for row in contents.unusable}
        return frozenset(filter(is_directory_name, directories))

    def prepare_archive(self) -> None:
        """Makes the archive directory and its marker where an older program has not, if it can be trusted. Raises like `archive`."""
        self.require_archive_no_vm()
        archive_marker.prepare_archive(
            self.files, self.configuration.nas, self.database.version.repository
        )
        self._note_archive()

    def stated_directory(self, record: VmRecord) -> Path | None:
        """Where the copies of a VM should be, for saying it: nobody has looked.

        None if that cannot be said.
        """
        nas = self.configuration.nas
        top = nas.archive if record.status == State.ARCHIVED else nas.mountpoint
        return top / record.directory if is_directory_name(record.directory) else None

    def reserved_names(self) -> frozenset[str]:
        """The names at the top of the NAS that are the archive's.

        No VM may have such a directory. Empty if it cannot be looked at.
        """
        nas = self.configuration.nas
        try:
            return first_name_below(nas.mountpoint, nas.archive)
        except OSError:
            return frozenset()

    def floor(self, key: str) -> int:
        """The highest number of a claim in the names of this VM's files, live and archived.

        A new claim on it must be above.

        That matters where the state database is younger than the copies: made anew, or put back. An
        archive that is not there is passed over.
        """
        record = self.database.head().contents.vms.get(key)
        if record is None or not record.directory:
            return 0
        return catalogue.highest_claim(
            directory for directory, _archived in self.all_directories(record)[0]
        )

    def _lost(self) -> list[str]:
        """The directories of VMs that are archived, with copies, and not on the way, of which the archive knows nothing.

        A copy that could not be moved is still where it was.
        """
        try:
            there = set(list_fresh(self.configuration.nas.archive))
        except (FileNotFoundError, NotADirectoryError):
            there = set()
        return [record.directory for record in self._archived() if record.directory not in there]

    def _archived(self) -> list[VmRecord]:
        """The VMs that are archived, with copies, and not on the way.

        Their copies must be in the archive, unless they had to stay.
        """
        top = self.configuration.nas.mountpoint
        return [
            record
            for record in self.database.head().contents.vms.values()
            if record.status == State.ARCHIVED
            and record.last_copy
            and record.moving is None
            and is_directory_name(record.directory)
            if not os.path.exists(
                top / record.directory / final_name(record.last_copy.stamp, "ova")
            )
        ]

    def _marked(self) -> bool:
        """Whether the archive is known to have a marker.

        By the format of the database, or because this host has seen it.
        """
        if not formats.is_older(self.database.head().contents.format):
            return True
        try:
            return is_archive_noted(self.configuration.nas, self.configuration.host.state_directory)
        except ConfigurationError:
            return False  # a user who may not see what this host remembers

    def _note_archive(self) -> None:
        try:
            note_archive(self.configuration.nas, self.configuration.host.state_directory)
        except ConfigurationError as error:
            log.info("that the archive has its marker is not remembered: %s", error.message)


def plain_directory(record: VmRecord) -> str:
    """The name of a VM's directory.

    Raises `UnusableRecordError` if it is not one plain name at the top of the NAS.
    """
    if not is_directory_name(record.directory):
        raise UnusableRecordError(
            (
                f"the record of {record.key} names {record.directory!r} as its directory, which no "
                f"program writes: no path is made of it"
            ),
            hint=(
                f"`vmbackup-admin forget {record.key}` deletes the record, and the next vmfind "
                f"finds the VM again; no copy is touched"
            ),
        )
    return record.directory


def open_site(configuration: Configuration, clock: Clock, *, reading: bool = False) -> Site:
    """Makes sure that the NAS is mounted, answers, and is the one that this host knows, then opens the state database on it.

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
