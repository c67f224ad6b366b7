"""Taking a VM back to a copy in place: its disks become those of the copy, all of them or none.

VirtualBox's read locks of its disks are held from before they are read until the new ones are in
place, so that nobody starts it meanwhile; should VBoxSVC die, the locks with it, and the VM be
started, that is found before anything is changed. The VM itself is claimed, so that no worker of
any host works on it. What is made is noted before (`shared.tasks.swap_note`).
"""

import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from coordinator.restore.in_place_checks import changed_since, refuse_changed, require_machine
from coordinator.restore.in_place_disks import make_disks
from coordinator.restore.in_place_locks import locked, require_settled, require_untouched
from coordinator.restore.in_place_plan import PlannedDisk, names_beside, plan_disks
from coordinator.restore.in_place_settling import note_of, refuse_unfinished, said_of, settle
from shared.copies.catalogue import Copy
from shared.frozen.store import RoomLimit
from shared.host.clock import timestamp
from shared.site import Site
from shared.state.records import VmRecord
from shared.state.sessions.holding import Holding
from shared.tasks import disk_swap, vm_copies
from shared.tasks.noted_import import Progress
from shared.tasks.swap_note import Swap, SwapNote, SwappedDisk
from shared.virtualbox import scratch
from shared.virtualbox.inventory import Machine

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """The VM, its disks, the copy, and what of the present state is in no copy."""

    machine: Machine
    disks: tuple[PlannedDisk, ...]
    copy: Copy
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TakenBack:
    """What was done: `written` bytes; the old disks are still there.

    `trouble`: what went wrong when all new disks were in place.
    """

    swap: Swap
    written: int
    resumed: bool = False
    trouble: str = ""


def plan(site: Site, record: VmRecord, copy: Copy, newest: Copy | None, *, discard: bool) -> Plan:
    """Whether the VM can become what the copy holds. Changes nothing.

    `newest` is its newest good copy. Raises `UsageError`, `IllegalMoveError`, `LockedError`,
    `CopyError`, `NasError`, `VBoxManageError`.
    """
    machine = require_machine(site, record)
    refuse_unfinished(note_of(site, record).read(), record, copy.stamp)
    lost = changed_since(machine, newest)
    if lost and not discard:
        refuse_changed(record, lost)
    return Plan(machine, plan_disks(site, record, machine, copy), copy, lost)


def take_back(
    site: Site, held: Holding, what: Plan, note: SwapNote, progress: Progress, until: ExitStack
) -> TakenBack:
    """Makes the disks, and puts them in place.

    On any failure before all are in place nothing is changed, and it is raised; afterwards it is
    told. The caller is `alone`, and holds the VM; VirtualBox's locks are held until `until` ends.
    """
    token = scratch.new_token()
    swap = Swap(
        what.machine.uuid,
        held.key,
        what.copy.stamp,
        tuple(_noted(disk, token) for disk in what.disks),
        started=what.machine.settings.last_state_change if what.machine.settings else "",
    )
    limit = RoomLimit(site.configuration.backup.clone_free)
    written = 0
    locks = locked(site, until, [disk.source for disk in what.disks])

    def step(doing: str, percent: float) -> None:
        held.check_often()
        for lock, _ in locks:
            lock.check()
        progress(doing, percent)

    note.write(swap)
    try:
        pairs = [(disk, named.new) for disk, named in zip(what.disks, swap.disks, strict=True)]
        written = make_disks(what.copy, pairs, limit, step)
        swap = note.write(replace(swap, disks=tuple(_whole(disk) for disk in swap.disks)))
        held.check()
        require_untouched(locks)
        disk_swap.swap_disks(swap, lambda: require_settled(site, held.record, what.machine, locks))
        swap = note.write(replace(swap, done=timestamp(site.clock.now())))
    except BaseException as error:
        left, unnoted = settle(site, note, swap)
        if left is None:
            raise
        return TakenBack(left, written, trouble=unnoted or said_of(error))
    log.info("%s is what it was at %s", held.key, what.copy.stamp, extra={"vm": held.key})
    return TakenBack(swap, written)


def newest_good(site: Site, record: VmRecord) -> Copy | None:
    """The newest good copy of the VM; None if it has none. Raises `NasError`."""
    good = [copy for copy in vm_copies.in_all_places(site, record) if copy.good]
    return good[-1] if good else None


def _noted(disk: PlannedDisk, token: str) -> SwappedDisk:
    return SwappedDisk(
        disk.place,
        *names_beside(disk.place, token),
        disk_swap.inode_of(disk.place),
    )


def _whole(disk: SwappedDisk) -> SwappedDisk:
    return replace(disk, after=disk_swap.inode_of(disk.new), sign=disk_swap.sign_of(disk.new))
