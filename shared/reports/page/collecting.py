"""What the page is made of, read from the NAS by one host."""

import contextlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from shared.copies.catalogue import Copy
from shared.host.errors import ConfigurationError, VmBackupError
from shared.reports import space_history
from shared.reports.page import days
from shared.reports.page.days import Past
from shared.reports.page.page_parts import KnownToPage, PageContents, page
from shared.reports.space_history import Sample
from shared.site import Site
from shared.state.contents import Contents
from shared.state.sessions.heartbeat import parse_beat, read_beat
from shared.state.store.summary import ends_of_days
from shared.tasks import vm_copies
from shared.tasks.verdicts import bounds_of, judge


def collected(site: Site) -> PageContents:
    """The page of all that this host can see.

    Reads the database, some sixty old generations of it, and the sidecars of all copies. Raises
    what reading the database raises.
    """
    snapshot = site.database.head()
    contents, now = snapshot.contents, site.clock.now().timestamp()
    window = days.last_days(now)
    return page(
        KnownToPage(
            written=now,
            version=metadata.version("vmbackup"),
            node=site.node,
            repository=snapshot.header.repository,
            generation=snapshot.generation,
            nas=site.nas,
            reserve=site.configuration.nas.reserve,
            contents=contents,
            judged=judge(site, contents),
            bounds={
                record.key: bounds_of(site.configuration, record, None)
                for record in contents.vms.values()
            },
            past=Past(window, ends_of_days(site.database.root, window)),
            copies=_copies(site, contents),
            beats=_beats(site, contents),
            samples=_samples(site),
            minutes=site.configuration.page.minutes,
        )
    )


def _copies(site: Site, contents: Contents) -> Mapping[str, Sequence[Copy]]:
    found = {}
    for record in contents.vms.values():
        with contextlib.suppress(VmBackupError):  # an archive that is not there, and the like
            found[record.key] = [copy for copy, _ in vm_copies.copies(site, record)]
    return found


def _beats(site: Site, contents: Contents) -> Mapping[str, Mapping[str, Any]]:
    found = {}
    for record in contents.vms.values():
        if record.claim is not None:
            with contextlib.suppress(OSError):
                beat = read_beat(site.database.root / "node", record.claim.session)
                found[record.claim.session] = parse_beat(beat)
    return found


def _samples(site: Site) -> list[Sample]:
    try:
        return space_history.read(site)
    except ConfigurationError:  # a user who may not see what this host remembers
        return []
