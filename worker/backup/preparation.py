"""What is settled before anything is done to a VM.

That it can be exported, that its copy has a place, and that this is the time for it.

A VM that is saved, shut down or made a snapshot of for a backup that could not succeed has had its
outage for nothing.
"""

import logging
from dataclasses import dataclass
from typing import Final

from shared.copies.catalogue import Catalogue
from shared.copies.catalogue import read as read_catalogue
from shared.copies.partials import remove_partials
from shared.nas.errors import reported
from shared.nas.mount import check_nas
from shared.virtualbox.export_checks import refuse_long_name, refuse_unexportable
from shared.virtualbox.inventory import Machine
from worker.backup.engine_choice import Modesty, require_engine
from worker.backup.left_out import Beside, Place
from worker.backup.method import Live, Method, Stopped, Work
from worker.backup.readiness import PostponedError, judge_length, judge_outage, judge_room
from worker.backup.room import require_room_for_memory

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settled:
    """What a backup goes on with: the files beside its copy, and the copies that are there already."""

    beside: Beside
    there: Catalogue


def settle(work: Work, method: Method, place: Place, modesty: Modesty, *, insists: bool) -> Settled:
    """Returns when nothing is known that would make the backup fail.

    Only the VM itself and the time are still in question.

    Nothing is done to the VM. `insists`: its operator wants it now, however often it was stopped
    for nothing. Raises `PostponedError` if it has to wait; `NasError`, `CopyError`,
    `VBoxManageError` that say why there can be no backup.
    """
    machine = work.machine()
    beside = _require_exportable(work, method, machine, modesty)
    free, there = _require_place(work, place)
    if machine.running and (isinstance(method, Live) or work.policy.running == "savestate"):
        require_room_for_memory(machine)  # a snapshot of a running VM has its memory, too
    _require_now(work, method, machine, there, free, insists=insists)
    return Settled(beside, there)


def _require_exportable(work: Work, method: Method, machine: Machine, modesty: Modesty) -> Beside:
    refuse_unexportable(machine)
    if not isinstance(method, Live):
        refuse_long_name(machine)
    require_engine(work.policy, machine, work.site.clock, modesty)
    return Beside(work.site, work.session, work.policy, machine)


def _require_place(work: Work, place: Place) -> tuple[int, Catalogue]:
    """Makes sure that the NAS and the VM's directory are there and can be written.

    The bytes that are free, and what else is there.

    What earlier attempts left in the directory is cleared away.
    """
    site = work.site
    free = check_nas(site.configuration.nas, write=True).free
    with reported(f"make the directory {place.directory}"):
        site.files.make_directory(place.directory)
    contents = site.database.head().contents
    live = {record.claim.number for record in contents.vms.values() if record.claim}
    live |= {record.publishing.claim for record in contents.vms.values() if record.publishing}
    for name in (
        removed := remove_partials(site.files, place.directory, live, contents.claims_granted)
    ):
        log.warning(
            "removed %s, which an earlier attempt left", name, extra={"vm": work.record.key}
        )
    return check_nas(site.configuration.nas).free if removed else free, read_catalogue(
        place.directory, work.record.uuid
    )


def _require_now(
    work: Work, method: Method, machine: Machine, there: Catalogue, free: int, *, insists: bool
) -> None:
    now, policy = work.site.clock.now(), work.policy
    verdicts = [
        judge_room(machine, policy, there, free, work.site.configuration.nas),
        judge_length(policy, machine, there, now),
    ]
    if not insists:
        verdicts.append(judge_outage(work.record, policy, now, runs=isinstance(method, Stopped)))
    for verdict in verdicts:
        if verdict.reason:
            raise PostponedError(verdict)
