"""Freezes a VM: clones of all its images and files, made while VirtualBox's locks hold it still.

All clones are made while the read locks of all disks are held together, so that they are of one
moment. Whoever wants them has the clones checked like disks, and the locks proven by them: then the
locks can go, and the VM may be started while its clones are read.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.frozen.kept_clones import KeptClones
from shared.frozen.not_frozen import NotFrozenError
from shared.frozen.store import CloneStore
from shared.virtualbox.export_errors import HostFullError

if TYPE_CHECKING:
    from shared.export.eligibility import SourceDisk

#: How often the room is looked at: each look makes XFS add up what all cores know of it, a third of
#: a millisecond, and a look is asked for before each megabyte.
_ROOM_SECONDS: Final = 0.1

#: Clones a file of the VM. Raises `NotFrozenError`.
CloneFile = Callable[[Path], Path]


class Freezer:
    """Freezes the disks of one VM for one export.

    `moment` is called while the locks are held and the disks are cloned. It clones what else
    belongs to that moment, and raises unless the VM is what it should be.

    `frozen`: the locks were let go, and proven to have lasted until then. `reason`: why it was not
    frozen.
    """

    def __init__(self, store: CloneStore, moment: Callable[[CloneFile], None]) -> None:
        self._store, self._moment = store, moment
        self.frozen = False
        self.reason = ""
        self._disks: tuple[SourceDisk, ...] = ()
        self._looked = float("-inf")

    def freeze(self, disks: tuple["SourceDisk", ...]) -> tuple["SourceDisk", ...]:
        """The same disks in clones, which are the disks of one moment if the locks last.

        Empty, with the `reason`, if this VM cannot be frozen: nothing was done then. Raises what
        `moment` raises, and has removed the clones.
        """
        if not disks:
            self.reason = "it has no disks, so that nothing keeps it from being started"
            return ()
        clone = self._store.clone
        try:
            frozen = tuple(
                replace(disk, files=tuple(clone(file) for file in disk.files)) for disk in disks
            )
            self._moment(clone)
        except NotFrozenError as error:
            self._store.discard()
            self.reason = str(error)
            return ()
        except BaseException:
            self._store.discard()
            raise
        self._disks = frozen
        return frozen

    def kept(self) -> KeptClones | None:
        """The clones of which the copy before was made, as they were noted."""
        return self._store.kept()

    def keep(self, stamp: str, index: str) -> None:
        """Keeps the clones of the disks for the next copy: `stamp` is the one made of them.

        `index` is the digest of its index. Raises `NotFrozenError`.
        """
        disks = {disk.attachment.label: disk.files for disk in self._disks}
        self._store.keep(stamp, index, disks)

    def check(self) -> None:
        """Raises `HostFullError` if the clones have to be given up, so that the VM can write."""
        if time.monotonic() < self._looked + _ROOM_SECONDS:
            return
        if self._store.short_of_room():
            raise HostFullError
        self._looked = time.monotonic()

    def discard(self) -> None:
        """Removes the clones that are not kept. A process that is killed leaves them."""
        self._store.discard()
