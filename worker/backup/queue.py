"""The order in which VMs are backed up. Pure."""

from collections.abc import Iterable

from shared.state.records import Contents, VmRecord
from shared.state.states import State


def waiting(contents: Contents, node: str) -> list[VmRecord]:
    """This host's VMs that wait for a backup: longest without a good copy first.

    Time is counted in claims, which no clock can upset. A VM whose last attempt failed stands where
    that attempt does, behind all that have waited longer, so that one that always fails keeps
    nobody waiting, and a new one is not passed over for ever.
    """
    records = (
        record for record in contents.vms.values() if record.node == node and may_be_claimed(record)
    )
    return sorted(records, key=lambda record: (last_attempt(record), record.found, record.key))


def may_be_claimed(record: VmRecord) -> bool:
    """Whether a backup worker may take it now."""
    free = record.claim is None and record.publishing is None and record.power is None
    return record.status == State.BACKUP_NECESSARY and free and record.missing_since is None


def last_attempt(record: VmRecord) -> int:
    """The claim of the newest good copy or of a failed attempt since, whichever is later.

    0 if there was none.
    """
    return max(record.last_copy.claim if record.last_copy else 0, record.last_failed_claim)


def deferred(contents: Contents, node: str) -> Iterable[str]:
    """This host's VMs that wait until they stop."""
    return (
        record.key
        for record in contents.vms.values()
        if record.node == node and record.status == State.RUNNING
    )
