"""The way back: a VM that was taken back to a copy in place gets the disks that it had before.

What holds on the way there holds here (`in_place`): VirtualBox's read locks of its disks, the claim
of the VM, the note that is made before, and that it has all disks of one kind, or does not start.
Its settings are what they are: taking it back did not change them.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from coordinator.restore.in_place_checks import require_machine
from coordinator.restore.in_place_locks import locked, require_settled, require_untouched
from coordinator.restore.in_place_plan import require_plain_disks
from coordinator.restore.in_place_settling import require_unused, said_of, settle
from shared.export.eligibility import SourceDisk, check_eligibility
from shared.host.clock import timestamp
from shared.host.errors import ConfigurationError, IllegalMoveError
from shared.host.printable import option
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import copies, sightings
from shared.state.sessions.holding import Holding
from shared.state.states import Event
from shared.tasks import disk_swap
from shared.tasks.disk_swap import PresentDisks
from shared.tasks.swap_note import Swap, SwapNote
from shared.virtualbox.inventory import Machine

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UndoPlan:
    """The VM, the disks that it has, what is undone, and what of it is lost: `lost`."""

    machine: Machine
    sources: tuple[SourceDisk, ...]
    swap: Swap
    lost: tuple[str, ...] = ()


def plan(site: Site, record: VmRecord, swap: Swap, *, discard: bool) -> UndoPlan:
    """Whether the VM can have its disks of before again. Changes nothing.

    `swap` is done. Raises `UsageError`, `IllegalMoveError`, `LockedError`, `VBoxManageError`.
    """
    machine = require_machine(site, record)
    require_plain_disks(site, record, machine)
    found = check_eligibility(machine, site.clock)
    sources = {os.path.realpath(disk.files[0]): disk for disk in found.disks}
    if found.reason or sources.keys() != {disk.place for disk in swap.disks}:
        raise IllegalMoveError(
            f"{record.key} has other disks by now than it had when it was taken back to "
            f"{swap.stamp}" + (f": {found.reason}" if found.reason else ""),
            hint="attach those again, or put the old ones, …vmbackup-old, in place by hand",
        )
    _require_noted(swap)
    require_unused(site, record.key, swap, "--undo")
    lost = tuple(_used(machine, swap))
    if lost and not discard:
        raise IllegalMoveError(
            f"{record.key} was used since it was taken back to {swap.stamp}: {', '.join(lost)}",
            hint=f"back it up first (`vmbackup-worker backup {option('--vm', record.key)} --now`); "
            "or give --discard-present-state: what its guest wrote since is lost then",
        )
    return UndoPlan(machine, tuple(sources.values()), swap, lost)


def undo(site: Site, held: Holding, what: UndoPlan, note: SwapNote, until: ExitStack) -> str:
    """Puts the old disks in place and removes the new ones; what went wrong after the former.

    On any failure before all are in place nothing is changed, and it is raised. The caller is
    alone, and holds the VM; VirtualBox's locks are held until `until` ends.
    """
    locks = locked(site, until, what.sources)
    held.check()
    require_untouched(locks)
    _require_noted(what.swap)
    swap = note.write(replace(what.swap, undoing=timestamp(site.clock.now())))
    try:
        disk_swap.undo(swap, lambda: require_settled(site, held.record, what.machine, locks))
        disk_swap.remove_new(swap)
        note.remove()
    except BaseException as error:
        if not _has_old(site, note, swap):
            raise
        return said_of(error)
    log.info("%s has its disks of before %s again", held.key, swap.stamp, extra={"vm": held.key})
    return ""


def _has_old(site: Site, note: SwapNote, swap: Swap) -> bool:
    """Whether the VM has its old disks after what was broken off; if not, it has all new ones.

    That the note cannot be removed then changes nothing: the next tick does it.
    """
    try:
        left, _ = settle(site, note, swap)
    except ConfigurationError:
        return disk_swap.present_disks(swap.way_back) is PresentDisks.NEW
    return left is None


def _require_noted(swap: Swap) -> None:
    """Raises `IllegalMoveError` unless each disk, old and new, is the very file that is noted."""
    for disk in swap.disks:
        for path, noted in ((disk.old, disk.before), (disk.place, disk.after)):
            if disk_swap.inode_of(path) != noted:
                raise IllegalMoveError(
                    f"{path} is not the disk any more that was put there",
                    hint="it was copied, or put back from elsewhere: put the old disks, "
                    "…vmbackup-old, in place by hand, or remove them with --finish",
                )


def record_it(site: Site, record: VmRecord, swap: Swap) -> None:
    """Writes to the database that the VM is not what it was at that copy: it is to be backed up.

    Raises what a commit raises: `NasError`, for one.
    """

    def change(contents: Contents) -> Contents:
        noted = copies.not_restored(contents, record.key, swap.stamp, swap.uuid)
        return sightings.apply_events(noted, {record.uuid: (Event.CHANGED,)})

    site.database.commit_once(change, f"undo restore {record.key} {swap.stamp}", "restore")


def _used(machine: Machine, swap: Swap) -> Iterator[str]:
    """What happened to it since; taken back by a program that noted nothing of it: perhaps all."""
    if not swap.started and not any(disk.sign for disk in swap.disks):
        yield "what it was then is not known"
        return
    if machine.settings is None or machine.settings.last_state_change != swap.started:
        yield "it was started, or stopped"
    for disk in swap.disks:
        if disk_swap.sign_of(disk.place) != disk.sign:
            yield f"{disk.place} was written"
