"""Directories for new VMs.

Each belongs to one VM, by its UUID: to no other record, and nothing of another VM lies in it
already.

A name may have been used before: by a VM that was forgotten, by one of another host, by the
archive, by people. What is there is looked at, below the mount point and in the archive; only an
empty directory, or one in which all copies are this very VM's, is taken.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final
from uuid import UUID

from shared.copies import catalogue
from shared.copies.names import DirectoryNames
from shared.host.configuration.telling import Page
from shared.host.errors import VmBackupError
from shared.nas.nas_errors import reported
from shared.nas.reading import Entry, look_at_top
from shared.nas.spelling import folded
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules.copies import FoundCopies
from shared.tasks import finding_unlisted, vm_copies

log: Final = logging.getLogger(__name__)


class NewDirectories:
    """Chooses a directory for each new VM.

    The NAS is looked at when the first one is chosen; without a new VM it is not.
    """

    def __init__(self, site: Site, contents: Contents) -> None:
        self._site, self._contents = site, contents

    def choose(self, name: str, uuid: str) -> str:
        """A directory that no other VM has or had. The next one chosen is another one.

        The one with the VM's own copies, if no record tells of them: it is taken back, whatever
        the VM is called by now. Raises `NasError`.

        Where the archive cannot be looked at, the name ends with the VM's UUID: nobody else's
        copies can be there under it.
        """
        if (left := self._left_behind.get(uuid.lower())) is not None:
            self._names.take(left.directory)
            return left.directory
        own = UUID(uuid).hex[:8]
        while True:
            candidate = self._names.choose(name, uuid)
            self._names.take(candidate)
            certain = self._archive_is_known or own in candidate
            if certain and all(
                self._is_free(path, uuid) for path in self._there.get(folded(candidate), ())
            ):
                return candidate

    @cached_property
    def _names(self) -> DirectoryNames:
        records = (record.directory for record in self._contents.vms.values() if record.directory)
        return DirectoryNames((*records, *self._site.reserved_names(), *self._files()))

    def _files(self) -> Iterator[str]:
        """The names at the top of the NAS under which workers write files for people.

        Those of this host, and the page of hosts that have it where it is by default.
        """
        configuration = self._site.configuration
        top = configuration.nas.mountpoint
        for file in (
            Page.model_validate({}).file,
            configuration.page.file,
            configuration.metrics.file,
        ):
            if file != Path() and (top / file).is_relative_to(top):
                yield (top / file).relative_to(top).parts[0]

    def copies(self, uuid: str) -> FoundCopies | None:
        """The copies of a new VM that are there already; None if there are none.

        Raises `NasError`.
        """
        left = self._left_behind.get(uuid.lower())
        return None if left is None else vm_copies.look_up_copies(self._site, left)

    @cached_property
    def _left_behind(self) -> Mapping[str, VmRecord]:
        """The records, made of the copies, of VMs that had one before, by UUID."""
        taken = {folded(name) for name in self._site.reserved_names()}
        taken |= {folded(row.directory) for row in self._contents.unusable if row.directory}
        own = finding_unlisted.find(self._site, self._contents).own
        return {
            uuid: record for uuid, record in own.items() if folded(record.directory) not in taken
        }

    @cached_property
    def _archive_is_known(self) -> bool:
        nas = self._site.configuration.nas
        if nas.archive.is_relative_to(nas.mountpoint) and not os.path.lexists(nas.archive):
            return True  # it was not made yet: only its name is taken
        try:
            _ = self._site.archive
        except VmBackupError as error:
            log.warning(
                (
                    "new VMs get directories with their UUID, because the archive cannot be looked "
                    "at: %s"
                ),
                error.message,
            )
            return False
        return True

    @cached_property
    def _there(self) -> Mapping[str, list[Path]]:
        """What lies below the mount point and in the archive, by folded name."""
        nas = self._site.configuration.nas
        found: dict[str, list[Path]] = {}
        for place in (nas.mountpoint, *([nas.archive] if self._archive_is_known else [])):
            with reported(f"look for a free directory in {place}"):
                entries: Mapping[str, Entry] = look_at_top(place)
            for name in entries:
                found.setdefault(folded(name), []).append(place / name)
        return found

    def _is_free(self, path: Path, uuid: str) -> bool:
        """Whether nothing of another VM, or of people, is there.

        Beside copies of this VM lies what a NAS and crashes leave: no matter.
        """
        try:
            found = catalogue.read(path, uuid)
        except VmBackupError:  # no directory, a link, or not for us
            return False
        if found.copies:
            return all(copy.ours and copy.sidecar is not None for copy in found.copies)
        return not (found.partials or found.foreign or found.links)
