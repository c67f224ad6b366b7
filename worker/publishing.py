"""Putting a verified copy in place: the part of a backup that is finished by whoever finds it, once its intent is committed."""

import logging
from typing import Final

from shared.clock import timestamp
from shared.copies import publish as files
from shared.copies import retention
from shared.errors import CopyError, NasError
from shared.pruning import rules_of
from shared.site import Site
from shared.statedb import changes
from shared.statedb.records import Claim, VmRecord
from shared.statedb.session import Session

log: Final = logging.getLogger(__name__)


def finish(site: Site, session: Session, record: VmRecord, own: Claim) -> bool:
    """Publishes the copy that `record.publishing` describes, lets go of copies that retention no longer keeps, and commits CLEAN.

    Answers False, with the failure committed, if there is nothing to publish. May be repeated by anybody after a crash. `own` is the
    claim on the VM; raises `LockLostError` when it was taken over, `NasError` when the NAS does not let us.
    """
    copy = record.publishing
    if copy is None:
        raise ValueError(f"{record.key}: no copy is being published")
    key = record.key
    session.doing.phase = "publish"
    try:
        files.publish(site.files, site.directory(record), copy)
    except CopyError as error:
        when = timestamp(site.clock.now())
        text = f"the copy {copy.stamp} could not be put in place: {error.message}"
        session.commit(lambda contents: changes.failed(contents, key, own, text, when), f"publish {key} failed")
        log.error("%s", text, extra={"vm": key})  # noqa: TRY400 - an operator's message, not a fault
        return False
    _let_go_of_old_copies(site, session, record)
    session.commit(lambda contents: changes.published(contents, key, own), f"{key} is clean: {copy.stamp}")
    log.info("copy %s published", copy.stamp, extra={"vm": key})
    return True


def _let_go_of_old_copies(site: Site, session: Session, record: VmRecord) -> None:
    """Applies retention while the claim is still held, and only after the new copy is in place. What it cannot do now it does next time."""
    rules = rules_of(site.configuration.policy_for(record.name))
    try:
        for stamp in retention.apply(site.files, site.directory(record), rules, check=session.check):
            log.info("copy %s removed: newer ones are kept", stamp, extra={"vm": record.key})
    except NasError as error:
        log.warning("old copies not removed: %s", error.message, extra={"vm": record.key})
