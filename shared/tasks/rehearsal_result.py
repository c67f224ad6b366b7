"""What a rehearsal found, written beside the copy and into the database."""

import logging
from dataclasses import replace
from typing import Final

from shared.copies import screenshots, sidecar_files
from shared.copies.catalogue import Copy
from shared.copies.sidecar_fields import Rehearsed, Screenshot
from shared.host.errors import CopyError, NasError
from shared.site import Site
from shared.state.sessions.holding import Holding
from shared.state.sessions.session import Session
from shared.tasks import commit_reasons, vm_copies

log: Final = logging.getLogger(__name__)


def note(
    site: Site, session: Session, key: str, stamp: str, result: Rehearsed, image: bytes
) -> bool:
    """Writes the result of a rehearsal, and the screenshot of its guest (empty: none).

    False if the copy is gone by now. A screenshot that the NAS does not take is left out, and that
    of an earlier rehearsal goes: it would be taken for this one's.

    Raises `LockedError` if somebody works on the VM, `LockLostError` if this process was displaced,
    `NasError`.
    """
    reason = f"note the rehearsal of {key} {stamp}"
    with vm_copies.hold(site, session, key, "verify", reason) as held:
        found = (copy for copy, _ in vm_copies.copies(site, held.record) if copy.stamp == stamp)
        copy = next(found, None)
        if copy is not None and copy.sidecar is not None:
            shot = _keep(site, held, copy, image, result.time) if image else None
            marked = replace(copy.sidecar, rehearsed=result, screenshot=shot)
            held.check()
            sidecar_files.replace(site.files, copy.directory, marked, held.claim.number)
            screenshots.remove_unneeded(site.files, copy.directory)
        vm_copies.commit_found(site, held, commit_reasons.rehearsed(key, stamp, result.result))
    return copy is not None


def _keep(site: Site, held: Holding, copy: Copy, image: bytes, time: str) -> Screenshot | None:
    held.check()
    try:
        return screenshots.keep(
            site.files, copy.directory, copy.stamp, held.claim.number, image, time
        )
    except (NasError, CopyError) as error:
        log.warning(
            "the screenshot of %s is not kept: %s",
            copy.stamp,
            error.message,
            extra={"vm": held.key},
        )
        return None
