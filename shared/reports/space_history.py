"""How much was free on the NAS, once a day: noted by the `database` worker of each host.

The note is of this host, in `host.state_directory`: one that is lost costs the forecast a week.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from shared.host.clock import parse_timestamp, timestamp
from shared.host.errors import ConfigurationError
from shared.host.notes import Note
from shared.state.sessions.worker_ends import space_note

if TYPE_CHECKING:
    from shared.site import Site

log: Final = logging.getLogger(__name__)

_KEPT: Final = 90
#: A little less than a day: a tick may be early.
_BETWEEN: Final = timedelta(hours=23)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a NAS had at a moment, in bytes."""

    when: datetime
    total: int
    free: int


def read(site: "Site") -> list[Sample]:
    """What was noted, the oldest first. Nonsense is passed over. Raises `ConfigurationError`."""
    found = []
    noted = _note(site).read().get("samples")
    for row in noted if isinstance(noted, list) else []:
        try:
            when, total, free = row
            sample = Sample(parse_timestamp(when), int(total), int(free))
        except (ValueError, TypeError):
            continue
        found.append(sample)
    return sorted(found, key=lambda sample: sample.when)


def note(site: "Site") -> None:
    """Notes how much is free, if the last note is a day old. One that fails is done without."""
    now = site.clock.now()
    try:
        samples = [sample for sample in read(site) if sample.when <= now]  # a clock was wrong
        if samples and now - samples[-1].when < _BETWEEN:
            return
        samples = [*samples, Sample(now, site.nas.total, site.nas.free)][-_KEPT:]
        rows = [[timestamp(each.when), each.total, each.free] for each in samples]
        _note(site).write({"samples": rows})
    except ConfigurationError as error:
        log.info("how much is free is not noted: %s", error.message)


def _note(site: "Site") -> Note:
    configuration = site.configuration
    place = space_note(configuration.host.state_directory, configuration.nas.mountpoint)
    return Note(place, "how much was free on the NAS")
