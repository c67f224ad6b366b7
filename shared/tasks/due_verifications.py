"""Which copies are due for a verification, and in what order."""

from datetime import datetime
from typing import Final

from shared.copies import catalogue
from shared.host.clock import is_over
from shared.host.configuration import Configuration
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.tasks.vm_copies import copies, last_read, said

_DAY_SECONDS: Final = 86400


def due(contents: Contents, configuration: Configuration, now: datetime) -> list[VmRecord]:
    """The VMs whose copies should be looked at: the one with the longest unverified copy first.

    A VM that was found with damaged copies is among them as long as they are there. Reads nothing
    but the database.
    """
    found = [
        record
        for record in contents.vms.values()
        if is_free(record) and (record.damaged or _overdue(record, configuration, now))
    ]
    return sorted(found, key=lambda record: (said(record.verified, now), record.key))


def is_free(record: VmRecord) -> bool:
    """Whether nobody works on the VM, and nothing that somebody began has to be finished first."""
    return bool(record.directory) and not (
        record.claim or record.publishing or record.moving or record.power
    )


def _overdue(record: VmRecord, configuration: Configuration, now: datetime) -> bool:
    days = configuration.policy_for(record.name, record.groups).verify_days
    if not record.verified:
        return record.last_copy is not None and days > 0
    return _older(record.verified, days, now)


def _older(moment: str, days: float, now: datetime) -> bool:
    """Whether a time of the database is at least so many days ago. With `days` 0, never.

    What is no time, or lies ahead, was always too long ago.
    """
    return days > 0 and is_over(now, moment, days * _DAY_SECONDS)


def due_copies(site: Site, record: VmRecord, now: datetime) -> list[catalogue.Copy]:
    """The copies of a VM that were last read longer ago than its policy says, the oldest first.

    Raises `NasError`.
    """
    days = site.policy(record).verify_days
    unmarked = (
        (copy, copy.sidecar)
        for copy, _ in copies(site, record)
        if copy.sidecar and not copy.sidecar.damage
    )
    found = [
        (last_read(side), copy) for copy, side in unmarked if _older(last_read(side), days, now)
    ]
    return [
        copy for _, copy in sorted(found, key=lambda pair: said(pair[0], now))
    ]  # of those read at the same time the oldest
