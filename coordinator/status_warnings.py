"""What `status` warns of beside the VMs: no room on the NAS, no reserve of the database."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from coordinator import database_reading, text
from shared.state.records import VmRecord
from shared.state.states import State

if TYPE_CHECKING:
    from shared.site import Site

#: How many VMs a warning names.
_NAMED: Final = 10


def little_room(site: "Site", records: Sequence[VmRecord]) -> tuple[str, ...]:
    """A warning if no backup can begin because the NAS is full, with the VMs that wait.

    The VMs that are CLEAN would not tell, and where no byte is left no worker can note that one
    waits.
    """
    free, reserve = site.nas.free, site.configuration.nas.reserve
    if free >= max(reserve, 1):
        return ()
    waiting = [
        record.key
        for record in records
        if record.status == State.BACKUP_NECESSARY and record.claim is None and not record.left_out
    ]
    more = f" and {len(waiting) - _NAMED} more" if len(waiting) > _NAMED else ""
    who = f". Waiting for room: {', '.join(waiting[:_NAMED])}{more}" if waiting else ""
    less = f", less than nas.reserve ({text.size(reserve)})" if reserve else ""
    return (
        (
            f"the NAS has {text.size(free)} free{less}: no backup begins. Free some space: "
            f"`vmbackup-admin prune --dry-run` shows what can go{who}"
        ),
    )


def missing_reserve(site: "Site") -> tuple[str, ...]:
    """A warning if the database has no reserve, with which a full NAS is cleared."""
    try:
        said = database_reading.missing_reserve(site.database.root, site.configuration.nas.reserve)
    except OSError:
        return ()  # the database is damaged, or may not be read: that is said elsewhere
    return (said,) if said else ()
