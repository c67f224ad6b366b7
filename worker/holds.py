"""Holds on copies whose record and sidecar do not say the same: a crash, or somebody at work."""

import logging
from typing import Final

from shared.host.errors import LockedError, VmBackupError
from shared.site import Site
from shared.state.contents import Contents

log: Final = logging.getLogger(__name__)


def settle(site: Site, contents: Contents) -> None:
    """Marks copies that are held, and takes the marks of holds that are over off.

    A VM on which somebody works has its turn at a later tick, one whose archive this host does not
    have at another host's. No VM without a hold is looked at.
    """
    for record in contents.vms.values():
        busy = record.claim or record.publishing or record.moving
        if not record.holds or busy:
            continue
        from shared.tasks import copy_hold  # only here: hardly any VM has a hold

        try:
            if copy_hold.is_settled(site, record):
                continue
            with site.database.session("database") as session:
                copy_hold.settle(site, session, record.key)
            log.info("its holds are settled", extra={"vm": record.key})
        except LockedError as error:
            log.info("holds: %s", error.message, extra={"vm": record.key})
        except VmBackupError as error:
            log.warning("holds not settled: %s", error.message, extra={"vm": record.key})
