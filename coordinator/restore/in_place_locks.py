"""VirtualBox's locks of a VM's disks, and the proof that nobody used it while they were held."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack

from coordinator.restore.in_place_checks import require_off
from shared.export.eligibility import SourceDisk, open_disk
from shared.export.read_lock import ReadLock
from shared.host.errors import IllegalMoveError
from shared.ova.disk import Chain
from shared.site import Site
from shared.state.records import VmRecord
from shared.tasks.disk_swap import SwapError
from shared.virtualbox.inventory import Machine

#: A read lock, with the disk as it is while that is held.
LockedDisk = tuple[ReadLock, Chain]


def locked(site: Site, stack: ExitStack, disks: Sequence[SourceDisk]) -> list[LockedDisk]:
    """VirtualBox's read locks of all disks, held until `stack` ends."""
    never = threading.Event()
    locks = [
        stack.enter_context(ReadLock.take(site.vboxmanage, disk.medium, never)) for disk in disks
    ]
    chains = [stack.enter_context(open_disk(disk)) for disk in disks]
    return list(zip(locks, chains, strict=True))


def require_untouched(locks: Sequence[LockedDisk]) -> None:
    """Raises `SwapError` if a disk was written since it was locked."""
    for lock, chain in locks:
        lock.check()
        if changed := chain.changed():
            raise SwapError(f"{changed} was changed meanwhile")


def require_settled(
    site: Site, record: VmRecord, before: Machine, locks: Sequence[LockedDisk]
) -> None:
    """Whether the VM, whose first disk is not there, is off and what it was `before`.

    From now on nobody can start it. Whoever has, after VBoxSVC had died with its locks, runs it by
    now. Raises `IllegalMoveError`.
    """
    for lock, chain in locks:
        lock.check()
        lock.prove(chain)
    machine = site.machine(record.uuid)
    if machine is None or machine.settings is None or before.settings is None:
        raise IllegalMoveError(f"{record.key} was removed from VirtualBox meanwhile")
    require_off(machine, record)
    now, then = machine.settings, before.settings
    same = (now.digest, now.last_state_change, now.disks) == (
        then.digest,
        then.last_state_change,
        then.disks,
    )
    if not same or machine.images != before.images:
        raise IllegalMoveError(f"{record.key} was changed or used meanwhile")
