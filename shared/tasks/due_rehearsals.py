"""Which VMs are due for a rehearsal of their newest copy, and in what order."""

from datetime import datetime
from typing import Final

from shared.copies.catalogue import Copy
from shared.host.clock import is_over
from shared.host.configuration import Configuration
from shared.host.hours import opening
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import readers
from shared.tasks.due_verifications import is_free
from shared.tasks.vm_copies import copies, said

_DAY_SECONDS: Final = 86400


def due(contents: Contents, configuration: Configuration, now: datetime) -> list[VmRecord]:
    """The VMs whose newest copy should be rehearsed now, by this host's settings. Pure.

    First those of which none was rehearsed yet, then the one whose last rehearsal is longest ago.
    Not those outside of their window, on which somebody works, or one of whose copies is being
    rehearsed.
    """
    found = [
        record
        for record in contents.vms.values()
        if is_free(record)
        and not (record.taken_in_by or record.damaged)
        and _overdue(record, configuration, now)
        and not readers.rehearsers(contents, record.uuid)
    ]
    return sorted(found, key=lambda record: (_last(record, now), record.key))


def newest_copy(site: Site, record: VmRecord) -> Copy | None:
    """The copy that is to be rehearsed; None if it is not there, or not good. Raises `NasError`."""
    newest = record.last_copy.stamp if record.last_copy else ""
    found = (copy for copy, _ in copies(site, record) if copy.stamp == newest and copy.good)
    return next(found, None)


def _last(record: VmRecord, now: datetime) -> str:
    return said(record.rehearsed.time, now) if record.rehearsed else ""


def _overdue(record: VmRecord, configuration: Configuration, now: datetime) -> bool:
    policy = configuration.policy_for(record.name, record.groups)
    days, hours = policy.rehearse_days, policy.rehearse_window
    if not days or record.last_copy is None:
        return False
    if hours and hours[:5] != hours[6:] and opening(hours, now) is None:
        return False
    last = record.rehearsed
    if last is None or (last.result != "good" and last.stamp != record.last_copy.stamp):
        return True  # a copy that would not come back has a successor
    return is_over(now, last.time, days * _DAY_SECONDS)
