"""The archive as one host and its database know it: whether it is there, and the right one.

What its marker says is in `archive_marker`; that a marker must be there is remembered by the format
of the database, and by a note of this host.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from shared.copies import archive_marker, directories
from shared.copies.archive_location import require_no_vm
from shared.copies.copy_files import NasFiles
from shared.host.configuration import Configuration
from shared.host.errors import ConfigurationError, VmBackupError
from shared.nas.repository import is_archive_noted, note_archive
from shared.state import formats
from shared.state.records import VmRecord
from shared.state.store.database import Database

log: Final = logging.getLogger(__name__)


@dataclass
class KnownArchive:
    """The archive of one repository. `reading`: nothing is remembered on this host."""

    configuration: Configuration
    database: Database
    files: NasFiles
    reading: bool

    @property
    def directory(self) -> Path:
        """The archive directory, if it is there, apart from all else, and of this repository.

        Looked at once: one that hangs costs its time limit once. Raises `NasError` that says what
        is not mounted, `ConfigurationError` if it is no place for an archive.
        """
        if self._problem is not None:
            raise self._problem
        return self.configuration.nas.archive

    def require_no_vm(self) -> None:
        """Makes sure that the archive, which is there, is not the directory of a VM, nor in one.

        Raises like `directory`.
        """
        _ = self.directory
        require_no_vm(
            self.configuration.nas, directories.plain_names(self.database.head().contents)
        )

    def prepare(self) -> None:
        """Makes the archive directory and its marker where an older program has not.

        Only if it can be trusted. Raises like `directory`.
        """
        self.require_no_vm()
        archive_marker.prepare_archive(
            self.files, self.configuration.nas, self.database.version.repository
        )
        self._note()

    @cached_property
    def _problem(self) -> VmBackupError | None:
        nas, repository = self.configuration.nas, self.database.version.repository
        try:
            marked = archive_marker.check_archive(
                nas,
                repository,
                known=self._marked,
                lost=lambda: directories.not_in_archive(nas, self._records),
                archived=lambda: len(directories.archived(nas, self._records)),
                directories=directories.plain_names(self.database.head().contents),
            )
        except VmBackupError as error:
            return error
        if marked and not self.reading:
            self._note()
        return None

    @property
    def _records(self) -> Collection[VmRecord]:
        return self.database.head().contents.vms.values()

    def _marked(self) -> bool:
        """Whether the archive must have a marker: the database's format or this host says so."""
        if not formats.is_older(self.database.head().contents.format):
            return True
        try:
            return is_archive_noted(self.configuration.nas, self.configuration.host.state_directory)
        except ConfigurationError:
            return False  # a user who may not see what this host remembers

    def _note(self) -> None:
        try:
            note_archive(self.configuration.nas, self.configuration.host.state_directory)
        except ConfigurationError as error:
            log.info("that the archive has its marker is not remembered: %s", error.message)
