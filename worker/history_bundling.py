"""Keeping the history of the database small: a part of the `database` worker.

Nothing depends on it: what goes wrong is told, and left to the next tick.
"""

import logging
import secrets
from datetime import timedelta
from typing import Final

from shared.host.clock import timestamp
from shared.host.errors import VmBackupError
from shared.site import Site
from shared.state import formats
from shared.state.contents import Contents
from shared.state.sessions.sweeping import nas_now
from shared.state.store import bundling
from shared.state.store.operations import ListGenerations

log: Final = logging.getLogger(__name__)

#: A tick begins no further bundle after so long.
_SECONDS: Final = 10.0
#: The age of commits is judged only where this host's clock and that of the NAS agree so far.
_CLOCKS_APART: Final = timedelta(days=1)


def keep_history(site: Site, contents: Contents) -> None:
    """Bundles old generations, a piece at each tick, and removes what is older than configured.

    Nothing is locked, so two hosts may do it at once, and it may be killed at any point. A database
    that hosts with program 0.1 may use is left as it is: they could not read what is in bundles.
    """
    if formats.is_older(contents.format):
        return
    for part in (_bundle, _remove_old):  # what stops the one does not stop the other
        try:
            part(site)
        except VmBackupError as error:
            log.warning("the history of the state database stays as it is: %s", error.message)


def _bundle(site: Site) -> None:
    database = site.database
    files, clock = database.files, database.clock
    until, total = clock.monotonic() + _SECONDS, 0
    while went := files.run(
        bundling.bundle_oldest(timestamp(clock.now()), secrets.token_hex(4), bundling.BUNDLE_SIZE)
    ):
        total += went
        if clock.monotonic() > until:
            break
    if total:
        with database.nas_errors():
            files.history.remove_empty(min(files.perform(ListGenerations()), default=0))
        log.info("put %d old generations into bundles", total)


def _remove_old(site: Site) -> None:
    database, now = site.database, site.clock.now()
    limit = now - timedelta(days=site.configuration.state.history_days)
    if not bundling.has_older(database.root, timestamp(limit)):
        return
    with database.nas_errors():
        apart = timedelta(seconds=abs(nas_now(database) - now.timestamp()))
    if apart > _CLOCKS_APART:
        log.warning("no old commit is removed: the clocks here and on the NAS are %s apart", apart)
        return
    gone = database.files.run(bundling.remove_old(timestamp(limit), timestamp(now), site.node))
    log.info("removed %d bundles of commits that were made before %s", gone, timestamp(limit))
