"""Suspect copies: those that have blocks in common with one that was found damaged.

The NAS may have copied the damage along, or store the block once for all of them. Until such a copy
has been read in full it is read before any other, nothing is taken over from it, the VM's next copy
is sent whole, and no older copy is let go for its sake. It counts as good meanwhile: often it is,
and it may be the only one.
"""

import logging
from dataclasses import replace
from typing import Final

from shared.copies import sidecar_files
from shared.copies.sidecar import Sidecar
from shared.site import Site
from shared.state.sessions.holding import Holding
from shared.tasks import vm_copies

log: Final = logging.getLogger(__name__)


def spread(site: Site, held: Holding, damaged: Sidecar) -> None:
    """Marks the copies of a VM that may have the damage of one, too.

    Those took blocks over from it, directly or through others. If it was never read in full it may
    have its damage from those from which it took blocks over. Call it before that one is marked:
    after a crash in between it is read, and they are marked, again. Raises `LockLostError`,
    `NasError`.
    """
    sources = () if damaged.read_in_full else damaged.taken_from
    for copy, _ in vm_copies.copies(site, held.record):
        side = copy.sidecar
        if side is None or side.suspect or side.damage:
            continue
        if damaged.stamp in side.taken_from or side.stamp in sources:
            held.check()
            marked = replace(side, suspect=damaged.stamp)
            sidecar_files.replace(site.files, copy.directory, marked, held.claim.number)
            log.warning(
                "the copy %s has blocks in common with %s, which is damaged: it is read next",
                copy.stamp,
                damaged.stamp,
                extra={"vm": held.key},
            )
