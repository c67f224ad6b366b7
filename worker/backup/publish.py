"""Checking an export, describing it in its sidecar, and committing the intent to publish it.

Once that is committed, whoever finds it finishes the publication (`shared.tasks.publication`).
"""

import itertools
import logging
import platform
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from shared.copies import publishing
from shared.copies.names import Suffix
from shared.copies.sidecar import Sidecar
from shared.copies.sidecar_fields import SideFile, Wire
from shared.export.exporter import Traffic
from shared.host.clock import timestamp
from shared.host.errors import CopyError, VBoxManageError
from shared.host.waits import pausing
from shared.nas.mount import check_nas
from shared.ova import scsi
from shared.ova.check import OvaCheck, check_ova
from shared.ova.index import GrainIndex
from shared.ova.parts_check import check_sent
from shared.state import formats
from shared.state.rules import backup
from shared.state.sessions.holding import Holding
from shared.tasks.vm_copies import as_record
from shared.virtualbox import import_trial
from shared.virtualbox.fingerprint import Fingerprint
from worker.backup.engine_choice import ChosenEngine
from worker.backup.priority import in_background
from worker.backup.work import Target, Work

log: Final = logging.getLogger(__name__)

#: How often VirtualBox is asked at least whether it would import a copy, and how long after a time
#: without an answer.
_TRIALS: Final = 3
_PAUSE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Exported:
    """An export that has ended, and is not checked yet.

    `frozen`: it was made of clones of the disks, and the VM could be used meanwhile. `compared`:
    what is on the disks was noted, and the next copy may take it over. `not_paused`: why its VM was
    copied live, which was to be paused. `paused_seconds`: how long it stood still.
    """

    fingerprint: Fingerprint
    frozen: bool
    compared: bool
    engine: ChosenEngine
    traffic: Traffic
    seconds: float
    source_bytes: int
    side_files: Mapping[Suffix, SideFile]
    left_out: tuple[str, ...]
    taken_from: tuple[str, ...]
    oldest_read: str
    not_paused: str = ""
    paused_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of a copy that is not published yet. `index`: its index, if that is sealed."""

    ova: OvaCheck
    index: SideFile | None = None


def check(work: Work, target: Target, exported: Exported) -> Checked:
    """Reads the partial `.ova` again: every byte, or every one that was sent.

    What the NAS copied by itself is read only in samples if nobody has read it for the export,
    either. Raises `CopyError` if it is not good.
    """
    doing, session = work.session.doing, work.session
    doing.phase = "check"

    def progress(done: int, total: int) -> None:
        doing.percent = round(100 * done / total, 1) if total else None
        session.check()

    def read(stop: Callable[[], bool]) -> Checked:
        pace = work.site.pace(stop)
        name, traffic = target.partial("ova"), exported.traffic
        scsi.mend(target.directory, name)
        if not (traffic.index and (exported.frozen or exported.compared or traffic.parts)):
            return Checked(
                check_ova(target.directory, name, progress=progress, should_stop=stop, pace=pace)
            )
        with closing(GrainIndex.open(target.partial_path("index"))) as index:
            if index.digest != traffic.index:
                raise CopyError("the index of the copy arrived wrong on the NAS")
            found = (
                check_sent(
                    target.directory,
                    name,
                    traffic.parts,
                    index,
                    progress=progress,
                    should_stop=stop,
                    pace=pace,
                )
                if traffic.parts
                else check_ova(
                    target.directory, name, progress=progress, should_stop=stop, pace=pace
                )
            )
            return Checked(found, SideFile(index.size, index.sha256))

    return in_background(work.site.configuration.backup.nice, read)


def try_import(work: Work, target: Target) -> str:
    """Why VirtualBox would not import the partial `.ova`; empty if it would.

    Asked again if it does not say: three times, and for as long as an export may stand still.
    Raises `VBoxManageError` if it says nothing at all.
    """
    work.session.doing.phase = "try to import"
    clock = work.site.clock
    seconds = work.site.configuration.backup.stall_seconds
    end = clock.monotonic() + seconds
    pause = pausing(clock.sleep, "VirtualBox to say whether it would import the copy", seconds)
    for attempt in itertools.count(1):
        work.session.check()
        try:
            refused = import_trial.refusal(work.site.vboxmanage, target.partial_path("ova"))
        except VBoxManageError as error:
            lasting = isinstance(error, import_trial.CopyUnseenError)
            if attempt >= _TRIALS and (lasting or clock.monotonic() >= end):
                raise VBoxManageError(
                    f"VirtualBox does not say whether it would import the copy: {error.message}",
                    hint=error.hint or "the next tick tries again",
                ) from None
            log.warning("VirtualBox is asked again about the copy: %s", error.message)
            pause(_PAUSE_SECONDS)
        else:
            return refused
    raise AssertionError("unreachable")


def seal(work: Work, target: Target, exported: Exported, found: Checked, refused: str) -> Sidecar:
    """Writes the sidecar of a checked copy, under partial names. Raises `NasError`.

    `refused`: why VirtualBox would not import it. Raises `CopyError` if such a copy is not kept.
    """
    site, engine, traffic = work.site, exported.engine, exported.traffic
    _refuse_unkept(work, refused)
    if traffic.parts and (found.ova.sha256 or found.index is None):
        raise CopyError("a copy with grains that nobody read was checked like a whole one")
    sidecar = Sidecar(
        stamp=target.stamp,
        claim=target.claim,
        vm=work.record.name,
        uuid=work.record.uuid,
        node=site.node,
        host=platform.node(),
        virtualbox=site.vboxmanage.version(),
        sha256=found.ova.sha256,
        size=found.ova.size,
        fingerprint=exported.fingerprint.to_json(),
        started=timestamp(target.started),
        finished=timestamp(site.clock.now()),
        duration_seconds=round(exported.seconds, 3),
        engine=engine.exporter.name,
        source_bytes=exported.source_bytes,
        files=exported.side_files,
        left_out=exported.left_out,
        refused=refused,
        engine_reason=engine.reason,
        frozen=exported.frozen,
        not_paused=exported.not_paused,
        paused_seconds=exported.paused_seconds,
        unread=traffic.unread,
        wire=Wire(found.ova.size - traffic.copied, traffic.copied, engine.whole or traffic.reason),
        key=work.held.key,
        repository=site.database.version.repository,
        taken_from=exported.taken_from,
        index=found.index,
        parts=traffic.parts.parts if traffic.parts else None,
        oldest_read=exported.oldest_read,
    )
    check_nas(site.configuration.nas, write=True)
    publishing.seal(site.files, target.directory, sidecar)
    return sidecar


def _refuse_unkept(work: Work, refused: str) -> None:
    """While programs of version 0.1 may work beside this one, a refused copy is a failure.

    One of them could finish it after a crash, takes it for a good copy, and lets the last good one
    go for it.
    """
    if refused and formats.is_older(work.site.database.head().contents.format):
        raise CopyError(
            f"VirtualBox would not import the copy, which is not kept: {refused}",
            hint="change that in VirtualBox; such copies are kept once vmbackup is updated on all "
            "hosts, and then: vmbackup-admin statedb upgrade",
        )


def intend(held: Holding, sidecar: Sidecar) -> None:
    """Commits the intent to publish: from here on anybody may finish it.

    Raises `LockLostError` if the claim was taken over: then there is no intent. Any other error
    leaves open whether it was committed, and nothing of the copy may be removed.
    """
    copy = as_record(sidecar)
    held.commit(
        lambda contents: backup.intend(contents, held.key, held.claim, copy),
        f"publish {held.key} {copy.stamp}",
    )
