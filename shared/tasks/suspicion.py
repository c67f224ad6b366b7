"""Suspect copies: those that took blocks over from one that was found damaged.

The NAS may have copied the damage along, or store the block once for all of them. Until such a copy
has been read in full it is read before any other, nothing is taken over from it, the VM's next copy
is sent whole, and no older copy is let go for its sake. It counts as good meanwhile: often it is,
and it may be the only one.
"""

import logging
from dataclasses import replace
from typing import Final

from shared.copies import sidecar as sidecars
from shared.site import Site
from shared.state.sessions.holding import Holding
from shared.tasks import vm_copies

log: Final = logging.getLogger(__name__)


def spread(site: Site, held: Holding, damaged: str) -> None:
    """Marks the copies of a VM that took blocks over from `damaged`, directly or through others.

    Call it before that one is marked: after a crash in between it is read, and they are marked,
    again. Raises `LockLostError`, `NasError`.
    """
    for copy, _ in vm_copies.copies(site, held.record):
        side = copy.sidecar
        if side and damaged in side.taken_from and not side.suspect and not side.damage:
            held.check()
            marked = replace(side, suspect=damaged)
            sidecars.replace(site.files, copy.directory, marked, held.claim.number)
            log.warning(
                "the copy %s took blocks over from %s, which is damaged: it is read next",
                copy.stamp,
                damaged,
                extra={"vm": held.key},
            )
