"""Checking an export, describing it in its sidecar, and committing the intent to publish it.

Once that is committed, whoever finds it finishes the publication (`shared.tasks.publication`).
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from shared.copies import publishing
from shared.copies.names import Suffix
from shared.copies.sidecar import Sidecar, SideFile, Wire
from shared.export.exporter import Traffic
from shared.host.clock import timestamp
from shared.nas.mount import check_nas
from shared.ova.check import OvaCheck, check_ova
from shared.state.records import CopyRecord
from shared.state.rules import backup
from shared.state.sessions.holding import Holding
from shared.virtualbox.fingerprint import Fingerprint
from worker.backup.engine import ChosenEngine
from worker.backup.priority import in_background
from worker.backup.work import Target, Work


@dataclass(frozen=True, slots=True)
class Exported:
    """An export that has ended, and is not checked yet."""

    fingerprint: Fingerprint
    engine: ChosenEngine
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
