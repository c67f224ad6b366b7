"""Checking an export, and putting the copy in place.

Once the intent to publish is committed, whoever finds it finishes the publication.
"""

import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.copies import catalogue, publishing, retention
from shared.copies.catalogue import Catalogue
from shared.copies.names import Suffix
from shared.copies.sidecar import Sidecar, SideFile, Wire
from shared.export.exporter import Traffic
from shared.host.clock import timestamp
from shared.host.errors import CopyError, LockLostError, VmBackupError
from shared.nas.mount import check_nas
from shared.ova.check import OvaCheck, check_ova
from shared.site import Site
from shared.state.records import CopyRecord, VmRecord
from shared.state.rules import backup
from shared.state.sessions.holding import Holding
from shared.state.sessions.session import Session
from shared.tasks.pruning import rules_of
from shared.virtualbox.fingerprint import Fingerprint
from worker.backup.engine import Choice
from worker.backup.priority import in_background
from worker.backup.work import Target, Work

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exported:
    """An export that has ended, and is not checked yet."""

    fingerprint: Fingerprint
    engine: Choice
    traffic: Traffic
    seconds: float
    source_bytes: int
    side_files: Mapping[Suffix, SideFile]
    left_out: tuple[str, ...]


def check(work: Work, target: Target) -> OvaCheck:
    """Reads every byte of the partial `.ova` again. Raises `CopyError` if it is not good."""
    doing, session = work.session.doing, work.session
    doing.phase = "check"

    def progress(done: int, total: int) -> None:
        doing.percent = round(100 * done / total, 1) if total else None
        session.check()

    return in_background(
        work.site.configuration.backup.nice,
        lambda stop: check_ova(
            target.directory, target.partial("ova"), progress=progress, should_stop=stop
        ),
    )


def seal(work: Work, target: Target, exported: Exported, found: OvaCheck) -> Sidecar:
    """Writes the sidecar of a checked copy, under partial names. Raises `NasError`."""
    site, engine, traffic = work.site, exported.engine, exported.traffic
    finished = site.clock.now()
    sidecar = Sidecar(
        stamp=target.stamp,
        claim=target.claim,
        vm=work.record.name,
        uuid=work.record.uuid,
        node=site.node,
        host=platform.node(),
        virtualbox=site.vboxmanage.version(),
        sha256=found.sha256,
        size=found.size,
        fingerprint=exported.fingerprint.to_json(),
        started=timestamp(target.started),
        finished=timestamp(finished),
        duration_seconds=round(exported.seconds, 3),
        engine=engine.exporter.name,
        source_bytes=exported.source_bytes,
        files=exported.side_files,
        left_out=exported.left_out,
        engine_reason=engine.reason,
        wire=Wire(found.size - traffic.copied, traffic.copied, engine.whole or traffic.reason),
    )
    check_nas(site.configuration.nas, write=True)
    publishing.seal(site.files, target.directory, sidecar)
    return sidecar


def intend(held: Holding, sidecar: Sidecar) -> None:
    """Commits the intent to publish: from here on anybody may finish it.

    Raises `LockLostError` if the claim was taken over: then there is no intent. Any other error
    leaves open whether it was committed, and nothing of the copy may be removed.
    """
    copy = CopyRecord(
        sidecar.stamp,
        sidecar.claim,
        sidecar.size,
        sidecar.sha256,
        sidecar.finished,
        sidecar.fingerprint,
    )
    held.commit(
        lambda contents: backup.intend(contents, held.key, held.claim, copy),
        f"publish {held.key} {copy.stamp}",
    )


def finish(site: Site, held: Holding) -> bool:
    """Publishes the copy that was intended, applies retention to older ones, and commits CLEAN.

    CLEAN is committed only while the copy is there and counts, looked at after everything else.
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
        publishing.publish(site.files, site.directory(record), copy)
        _let_go_of_old_copies(site, session, record, copy)
        there = _require_there(site, record, copy)
    except CopyError as error:
        when = timestamp(site.clock.now())
        text = f"the copy {copy.stamp} could not be put in place: {error.message}"
        session.commit(
            lambda contents: backup.failed(contents, key, own, text, when), f"publish {key} failed"
        )
        log.error("%s", text, extra={"vm": key})  # noqa: TRY400 - an operator's message, not a fault
        return False
    unknown = there.order_unknown
    session.commit(
        lambda contents: backup.published(contents, key, own, unknown),
        f"{key} is clean: {copy.stamp}",
    )
    log.info("copy %s published", copy.stamp, extra={"vm": key})
    if unknown:
        what = (
            "number, time and creation disagree about %d copies of it, and retention removes "
            "none of these: vmbackup-admin copies %s"
        )
        log.warning(what, len(unknown), key, extra={"vm": key})
    return True


def _require_there(site: Site, record: VmRecord, copy: CopyRecord) -> Catalogue:
    """What is in the VM's directory, the new copy among it.

    Raises `CopyError` if that does not count there, `NasError`.
    """
    there = catalogue.read(site.directory(record), record.uuid)
    found = there.find(copy.stamp)
    if found is None or not found.good:
        raise CopyError(f"it was, and now {found.problem if found else 'it is gone'}")
    return there


def _let_go_of_old_copies(site: Site, session: Session, record: VmRecord, copy: CopyRecord) -> None:
    """Applies retention while the claim is still held, and only after the new copy is in place.

    What it cannot do now it does next time.
    """
    rules, directory = rules_of(site.configuration.policy_for(record.name)), site.directory(record)
    try:
        gone = retention.apply(
            site.files, directory, record.uuid, rules, protect={copy.stamp}, check=session.check
        )
        for stamp in gone:
            log.info("copy %s removed: newer ones are kept", stamp, extra={"vm": record.key})
    except LockLostError:
        raise
    except VmBackupError as error:
        log.warning("old copies not removed: %s", error.message, extra={"vm": record.key})
