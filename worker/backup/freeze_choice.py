"""Whether a VM is frozen for its export, and what must be of the same moment as its disks.

A VM that is off, and that nothing is done to, is frozen: it can be started a second after its
backup began. One that was stopped for its backup, or is exported from a clone of a snapshot, waits.
The clone of a VM that was paused is frozen as well, so that the next copy finds what has changed.
"""

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from shared.copies.names import Suffix
from shared.frozen.not_frozen import NotFrozenError
from shared.frozen.store import CloneStore, RoomLimit
from shared.host.errors import CopyError, NasError, VBoxManageError
from shared.ova.index import index_digest
from shared.state.states import Event
from shared.virtualbox.export_errors import VmChangedError
from shared.virtualbox.fingerprint import Fingerprint, differences, fingerprint_of
from shared.virtualbox.inventory import Machine
from worker.backup.method import AsItIs
from worker.backup.paused import Paused
from worker.backup.paused_clone import PausedClone
from worker.backup.work import Method, Work

if TYPE_CHECKING:
    from shared.export.freezing import CloneFile

log: Final = logging.getLogger(__name__)


#: Files of a VM by the suffix that they have beside its copy.
Pieces = dict[Suffix, Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class FrozenVm:
    """What a VM was at the moment at which its disks were cloned."""

    fingerprint: Fingerprint
    files: Pieces


class Freezable(Protocol):
    """What belongs to the moment of which a copy is."""

    def freeze(self, machine: Machine, clone: "CloneFile") -> Pieces:
        """It as it is now. Raises `NotFrozenError`, `CopyError`."""


class Frozen:
    """The freezing of one VM for one attempt to export it. `discard` it, whatever happens."""

    def __init__(self, store: CloneStore, moment: "Callable[[CloneFile], FrozenVm | None]") -> None:
        from shared.export.freezing import Freezer

        self._moment: FrozenVm | None = None

        def keep(clone: "CloneFile") -> None:
            self._moment = moment(clone)

        self.freezer = Freezer(store, keep)

    @property
    def moment(self) -> FrozenVm | None:
        """What else the VM was when it was frozen; None if it is not, or is a clone that is."""
        return self._moment if self.freezer.frozen else None

    @property
    def done(self) -> bool:
        """Whether the disks were read from clones, which nobody had to lock."""
        return self.freezer.frozen

    def keep(self, stamp: str, index: Path) -> None:
        """Keeps the clones of the disks for the next copy: `stamp` was made of them, with `index`.

        What cannot be kept is done without: the next copy reads everything.
        """
        if not self.freezer.frozen or not os.path.exists(index):
            return
        try:
            self.freezer.keep(stamp, index_digest(index))
        except (NotFrozenError, CopyError, NasError) as error:
            log.info("the clones of its disks are not kept: %s", error)

    def discard(self) -> None:
        """Removes the clones that are not kept."""
        self.freezer.discard()


def freezing(work: Work, method: Method, machine: Machine, side_files: Freezable) -> Frozen | None:
    """How a VM will be frozen, with its `side_files`; None if it stays locked while it is exported.

    Nothing is done yet. The clone of a paused VM stays what it is for as long as it is there; its
    disks are frozen to be kept for the next copy.
    """
    if work.policy.changed == "off":
        return None
    if isinstance(method, Paused):
        return _frozen_clone(work, method, machine)
    if not isinstance(method, AsItIs):
        return None

    def moment(clone: "CloneFile") -> FrozenVm:
        files = side_files.freeze(machine, clone)
        try:
            return FrozenVm(method.conclude(), files)
        except CopyError as error:
            raise VmChangedError(error.message) from None

    limit = RoomLimit(work.site.configuration.backup.clone_free)
    return Frozen(_store(work, Path(machine.settings_file).parent, limit), moment)


def _frozen_clone(work: Work, method: Paused, clone: Machine) -> Frozen | None:
    """None if the VM is copied live instead: that clone stands on a snapshot."""
    if method.instead:
        return None
    home = Path(clone.settings_file).parent.parent
    return Frozen(
        _store(work, home, method.room_limit, PausedClone.folder_for), lambda _clone: None
    )


def _store(
    work: Work,
    home: Path,
    limit: RoomLimit,
    folder_for: Callable[[Path], Path] = lambda source: source.parent,
) -> CloneStore:
    site = work.site
    return CloneStore(
        site.configuration.host.state_directory,
        site.database.version.repository,
        work.record.uuid,
        home=home,
        claim=work.held.claim.number,
        limit=limit,
        folder_for=folder_for,
    )


def publication_event(work: Work, copied: Fingerprint) -> Event:
    """How the VM stands to a copy of it that is published now, of which it was `copied`.

    A VM that cannot be looked at counts as changed: one backup too many, never one too few.
    """
    try:
        machine = work.machine()
        if machine.running:
            return Event.PUBLISHED_RUNNING
        changed = differences(copied, fingerprint_of(machine))
    except VBoxManageError as error:
        log.warning(
            "whether it was used since its copy is not known: %s",
            error.message,
            extra={"vm": work.held.key},
        )
        return Event.PUBLISHED_CHANGED
    return Event.PUBLISHED_CHANGED if changed else Event.PUBLISHED
