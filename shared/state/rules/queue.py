"""Slots for exports on the NAS, and the queue of VMs that wait for one. Pure.

A claim takes a slot, so whoever dies frees it with its VM. A VM keeps its place in the queue until
it is claimed, over many ticks; but only those count as ahead of another for which a worker waits at
that moment, so that a host that is switched off delays nobody.
"""

from dataclasses import replace

from shared.host.errors import TooManyExportsError
from shared.state.contents import Contents
from shared.state.records import Queued, VmRecord
from shared.state.states import State


def exports(contents: Contents) -> int:
    """How many backups are claimed by live sessions, of all hosts."""
    return sum(
        record.claim is not None and record.claim.purpose == "backup"
        for record in contents.vms.values()
    )


def join(contents: Contents, key: str, session: str) -> Contents:
    """Puts a VM at the end of the queue, or leaves it where it is.

    From now on `session` waits for its slot, and for no other. Nothing happens if the VM may not be
    claimed any more.
    """
    record = contents.vms.get(key)
    if record is None or not _waits(record):
        return contents
    for other in list(contents.vms):
        contents = contents if other == key else leave(contents, other, session)
    last = max((other.queued.number for other in contents.vms.values() if other.queued), default=0)
    number = record.queued.number if record.queued else last + 1
    return contents.with_vm(replace(record, queued=Queued(number, session)))


def leave(contents: Contents, key: str, session: str) -> Contents:
    """`session` waits for this VM's slot no longer; the VM keeps its place in the queue."""
    record = contents.vms.get(key)
    if record is None or record.queued is None or record.queued.session != session:
        return contents
    return contents.with_vm(replace(record, queued=replace(record.queued, session="")))


def has_slot(contents: Contents, key: str, limit: int) -> bool:
    """Whether a backup of this VM may begin where so many exports are allowed.

    That is, if there is a slot for it and for all that are ahead of it.
    """
    return exports(contents) + ahead(contents, key) < limit


def require_slot(contents: Contents, key: str, limit: int) -> None:
    """Raises `TooManyExportsError` if it must wait."""
    if not has_slot(contents, key, limit):
        count = ahead(contents, key)
        line = (
            f", and {count} more {'wait' if count > 1 else 'waits'} in line before it"
            if count
            else ""
        )
        raise TooManyExportsError(
            f"{key}: {exports(contents)} exports run on the NAS{line}",
            hint=f"backup.exports_on_nas = {limit} is the limit",
        )


def ahead(contents: Contents, key: str) -> int:
    """How many VMs are before this one in the queue, with a worker that now waits for a slot."""
    own = contents.vms[key].queued if key in contents.vms else None
    busy = {record.claim.session for record in contents.vms.values() if record.claim}

    def is_ahead(other: VmRecord) -> bool:
        if other.key == key or other.queued is None or not _waits(other):
            return False
        session = contents.sessions.get(other.queued.session)
        waiting = session is not None and session.state == "live" and session.id not in busy
        return waiting and (own is None or other.queued.number < own.number)

    return sum(map(is_ahead, contents.vms.values()))


def _waits(record: VmRecord) -> bool:
    return record.claim is None and record.status == State.BACKUP_NECESSARY
