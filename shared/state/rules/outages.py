"""How long a VM is left alone after a backup that stopped it and published nothing.

Pure: what time it is, is an argument. That a VM is saved or shut down is noted in its claim before
it is; so a worker that dies in the middle of it counts like one that failed.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from shared.host.clock import TOLERANCE, parse_timestamp, timestamp
from shared.state.records import VmRecord

#: Methods of a backup during which a VM is away.
OUTAGES: Final = frozenset({"savestate", "shutdown"})
#: After the first one that was for nothing; after each further one twice as long.
SHORTEST: Final = timedelta(minutes=15)
LONGEST: Final = timedelta(days=1)


def pause(failed: int) -> timedelta:
    """How long a VM is left alone after so many backups in a row that stopped it for nothing."""
    doublings = min(max(failed, 1) - 1, 20)
    return min(SHORTEST * (1 << doublings), LONGEST)


def counted(record: VmRecord, when: str) -> VmRecord:
    """`record`, whose claim is being given up without a copy at `when`.

    If the VM was stopped under it, it is left alone for a while.
    """
    if record.claim is None or not record.claim.outage:
        return record
    failed = record.outages_failed + 1
    try:
        until = timestamp(parse_timestamp(when) + pause(failed))
    except (ValueError, OverflowError):
        until = ""
    return replace(record, outages_failed=failed, next_outage=until)


def waits_until(record: VmRecord, now: datetime) -> str:
    """Until when a VM may not be stopped for a backup; empty if it may.

    A time further ahead than the longest pause was written by a clock that was wrong, and counts as
    over.
    """
    try:
        ahead = parse_timestamp(record.next_outage) - now
    except ValueError:
        return ""
    return record.next_outage if timedelta() < ahead <= LONGEST + TOLERANCE else ""
