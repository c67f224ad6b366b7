"""Putting in place a copy whose publication was intended, by its worker or by whoever finds it."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from shared.copies import catalogue, publishing, retention
from shared.copies.catalogue import Catalogue
from shared.host.clock import timestamp
from shared.host.errors import CopyError, LockLostError, VmBackupError
from shared.site import Site
from shared.state.records import CopyRecord, VmRecord
from shared.state.rules import backup, claims, holds, readers
from shared.state.sessions.holding import Holding, holding
from shared.state.sessions.session import Session
from shared.state.states import Event
from shared.tasks import commit_reasons
from shared.tasks.pruning import rules_of

log: Final = logging.getLogger(__name__)

_MEANINGS: Final = {
    Event.PUBLISHED: "clean",
    Event.PUBLISHED_RUNNING: "copied, and runs again",
    Event.PUBLISHED_CHANGED: "copied, and was used since",
}


def finish(
    site: Site, held: Holding, publication_event: Callable[[], Event] = lambda: Event.PUBLISHED
) -> bool:
    """Publishes the copy that was intended, applies retention to older ones, and commits CLEAN.

    CLEAN is committed only while the copy is there and counts, looked at after everything else. One
    that VirtualBox would not import is put in place and kept, and is a failure. `publication_event`
    says how the VM stands to its copy: it is RUNNING or BACKUP_NECESSARY if it was used again. Who
    cannot look at the VM takes it for unused; the next look of its host puts that right.

    Returns False, with the failure committed, if there is nothing to publish or it is not there in
    the end. May be repeated by anybody after a crash. Raises `LockLostError` when the claim was
    taken over, `NasError` when the NAS does not let us.
    """
    session, record, own, key = held.session, held.now(), held.claim, held.key
    copy = record.publishing
    if copy is None:
        raise ValueError(f"{key}: no copy is being published")
    session.doing.phase = "publish"
    try:
        _put_in_place(site, record, copy)
        gone = _let_go_of_old_copies(site, session, record, copy)
        there = _require_there(site, record, copy)
    except CopyError as error:
        when = timestamp(site.clock.now())
        text = f"the copy {copy.stamp} {error.message}"
        session.commit(
            lambda contents: backup.failed(contents, key, own, text, when), f"publish {key} failed"
        )
        log.error("%s", text, extra={"vm": key})  # noqa: TRY400 - an operator's message, not a fault
        return False
    unknown, event = there.order_unknown, publication_event()
    session.commit(
        lambda contents: backup.published(contents, key, own, unknown, event),
        commit_reasons.with_removed(f"{key} is {_MEANINGS[event]}: {copy.stamp}", gone),
    )
    log.info("copy %s published; the VM is %s", copy.stamp, _MEANINGS[event], extra={"vm": key})
    if unknown:
        what = (
            "number, time and creation disagree about %d copies of it, and retention removes "
            "none of these: vmbackup-admin copies %s"
        )
        log.warning(what, len(unknown), key, extra={"vm": key})
    return True


def resume(site: Site, key: str, worker: str) -> bool:
    """Finishes the publication that a worker which died had begun, under a claim of its own.

    Answers and raises like `finish`; `LockedError` while somebody holds the VM, `IllegalMoveError`
    if there is nothing to publish.
    """
    start = partial(claims.grant, key=key, purpose="publish", floor=site.floor(key))
    with (
        site.database.session(worker) as session,
        holding(session, start, f"finish publishing {key}") as held,
    ):
        return finish(site, held)


def _require_there(site: Site, record: VmRecord, copy: CopyRecord) -> Catalogue:
    """What is in the VM's directory, the new copy among it.

    Raises `CopyError` if that does not count there, `NasError`.
    """
    there = catalogue.read(site.directory(record), record.uuid)
    found = there.find(copy.stamp)
    if found is not None and found.refused:
        raise CopyError(f"is kept, but does not count: {found.problem}")
    if found is None or not found.good:
        gone = found.problem if found else "it is gone"
        raise CopyError(f"could not be put in place: it was, and now {gone}")
    return there


def _put_in_place(site: Site, record: VmRecord, copy: CopyRecord) -> None:
    try:
        publishing.publish(site.files, site.directory(record), copy)
    except CopyError as error:
        raise CopyError(f"could not be put in place: {error.message}") from None


def _let_go_of_old_copies(
    site: Site, session: Session, record: VmRecord, copy: CopyRecord
) -> list[str]:
    """Applies retention while the claim is still held, and only after the new copy is in place.

    What it cannot do now it does next time. Returns the stamps of what it removed.
    """
    rules, directory = rules_of(site.policy(record)), site.directory(record)
    try:
        read = readers.readers(session.head().contents, record.uuid)
        stay = {copy.stamp, *read, *holds.stamps(record)}
        gone = retention.apply(
            site.files, directory, record.uuid, rules, protect=stay, check=session.check
        )
        for stamp in gone:
            log.info("copy %s removed: newer ones are kept", stamp, extra={"vm": record.key})
        return list(gone)
    except LockLostError:
        raise
    except VmBackupError as error:
        log.warning("old copies not removed: %s", error.message, extra={"vm": record.key})
        return []
