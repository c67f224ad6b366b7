"""One VM's backup: from the claim to the intent to publish. Every way out leaves no partial file and a committed state."""

import logging
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.clock import timestamp
from shared.copies import publish as files
from shared.copies.catalogue import Catalogue
from shared.copies.catalogue import read as read_catalogue
from shared.copies.mount import check_nas
from shared.copies.names import final_name, make_stamp, partial_name
from shared.copies.ova import check_ova
from shared.copies.reporting import reported
from shared.copies.sidecar import Sidecar, Wire
from shared.copies.space import allocated, check_room, needed
from shared.errors import LockLostError, VmBackupError
from shared.site import Site
from shared.statedb import changes
from shared.statedb.records import Claim, Copy, VmRecord
from shared.statedb.session import Session
from shared.virtualbox.export import Exporter, Traffic, VmRunsError
from shared.virtualbox.fingerprint import Fingerprint
from shared.virtualbox.inventory import Machine, files_of
from shared.virtualbox.obstacles import refuse_long_name, refuse_unexportable
from worker import publishing
from worker.deltas import plan_delta
from worker.engines import EngineFaultError, Modesty, choose_engine
from worker.hooks import Hooks
from worker.methods import Live, Method, Subject, Work, choose, undo_safely
from worker.monitor import Monitor
from worker.priority import in_background
from worker.sides import Beside, Place

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exported:
    """A partial copy that was made and checked."""

    sidecar: Sidecar
    fingerprint: Fingerprint


class Backup:
    """The backup of one VM that this session has claimed."""

    def __init__(self, site: Site, session: Session, record: VmRecord, own: Claim) -> None:
        self._site, self._session, self._record, self._own = site, session, record, own
        self._key = record.key
        self._directory = site.directory(record)
        self._work = Work(site, session, record, own, site.configuration.policy_for(record.name))
        self._started = site.clock.now()
        self._stamp = make_stamp(self._started, own.number)
        self._place = Place(self._directory, self._stamp, own.number)
        self._hooks = Hooks(self._work.policy, self._facts(), self._key)
        self._error = ""
        self._method: Method | None = None

    def run(self) -> bool:
        """Like `attempt`, with the operator's commands before and after it."""
        try:
            done = self.attempt()
        except BaseException as error:
            self._hooks.given_up(error)
            raise
        if done is None:
            self._hooks.failed(self._error)
            return False
        self._hooks.after({"size": str(done.size), "sha256": done.sha256})
        return True

    def attempt(self) -> Sidecar | None:
        """Makes the copy and publishes it; answers its sidecar if the VM is CLEAN now. Raises `LockLostError` if this worker was displaced.

        A VM that turns out to run is committed as RUNNING and raises `VmRunsError`; any other failure is committed and answered.
        Whatever happens, the VM is brought back to the power state in which it was found, or that stays noted for the next tick.
        """
        try:
            refuse_unexportable(self._work.machine())
            self._hooks.before()
            exported = self._export_somehow()
        except VmRunsError as error:
            self._clean_up()
            self._session.commit(lambda contents: changes.found_running(contents, self._key, self._own), f"{self._key}: {error.message}")
            raise
        except LockLostError:
            self._clean_up()
            raise
        except VmBackupError as error:
            self._clean_up()
            self._fail(error.message)
            log.error("backup failed: %s%s", error.message, f" ({error.hint})" if error.hint else "", extra={"vm": self._key})  # noqa: TRY400
            return None
        except BaseException:
            self._clean_up()  # interrupted: the end of the session frees the claim
            raise
        return exported.sidecar if self._publish(exported) else None

    def _facts(self) -> dict[str, str]:
        """What the operator's commands are told."""
        record = self._record
        return {
            "vm": record.key,
            "uuid": record.uuid,
            "node": self._site.node,
            "stamp": self._stamp,
            "directory": str(self._directory),
            "copy": str(self._directory / final_name(self._stamp, "ova")),
        }

    def _export_somehow(self) -> Exported:
        """Exports; what fails in one way and may succeed in a more modest one is undone and begun anew."""
        modesty = Modesty()
        while True:
            self._method = choose(self._work)
            try:
                return self._export(self._method, modesty)
            except EngineFaultError as fault:
                self._clean_up()
                log.warning("%s; it is tried again without that", fault.message, extra={"vm": self._key})
                modesty = fault.modesty

    def _export(self, method: Method, modesty: Modesty) -> Exported:
        machine = self._work.machine()
        beside = Beside(self._site, self._session, self._work.policy, machine)
        for what in beside.left_out:
            log.warning("not in the copy: %s", what, extra={"vm": self._key})
        if not isinstance(method, Live):
            refuse_long_name(machine)
        subject = method.prepare()
        source_bytes = _source_bytes(subject.machine)
        there = self._make_room(source_bytes, beside.bytes_of(subject))
        delta = plan_delta(self._site, self._place, there, modesty.whole)
        engine = choose_engine(self._site, self._work.policy, subject.machine, delta, modesty)
        if engine.reason:
            log.info("exported by VBoxManage: %s", engine.reason, extra={"vm": self._key})
        with engine.judged():
            seconds, traffic = self._run_engine(subject, engine.exporter)
        kept = beside.keep(subject, self._place)
        fingerprint = method.conclude()
        self._session.doing.phase = "check"
        name = partial_name(self._stamp, self._own.number, "ova")
        nice = self._site.configuration.backup.nice
        with engine.judged():
            found = in_background(nice, lambda stop: check_ova(self._directory, name, progress=self._checked, should_stop=stop))
        finished = self._site.clock.now()
        sidecar = Sidecar(
            stamp=self._stamp,
            claim=self._own.number,
            vm=self._record.name,
            uuid=self._record.uuid,
            node=self._site.node,
            host=platform.node(),
            virtualbox=self._site.vboxmanage.version(),
            sha256=found.sha256,
            size=found.size,
            fingerprint=fingerprint.to_json(),
            started=timestamp(self._started),
            finished=timestamp(finished),
            duration_seconds=round(seconds, 3),
            engine=engine.exporter.name,
            source_bytes=source_bytes,
            files=kept,
            left_out=beside.left_out,
            engine_reason=engine.reason,
            wire=Wire(found.size - traffic.copied, traffic.copied, engine.whole or traffic.reason),
        )
        check_nas(self._site.configuration.nas, write=True)
        files.seal(self._site.files, self._directory, sidecar)
        return Exported(sidecar, fingerprint)

    def _make_room(self, source_bytes: int, side_bytes: int) -> Catalogue:
        """Makes sure that the NAS is there and has room, after clearing away what earlier attempts left in the VM's directory.

        Answers what else is there.
        """
        nas = self._site.configuration.nas
        check_nas(nas, write=True)
        with reported(f"make the directory {self._directory}"):
            self._site.files.make_directory(self._directory)
        contents = self._site.database.head().contents
        live = {record.claim.number for record in contents.vms.values() if record.claim}
        live |= {record.publishing.claim for record in contents.vms.values() if record.publishing}
        for name in files.remove_partials(self._site.files, self._directory, live, contents.claims_granted):
            log.warning("removed %s, which an earlier attempt left", name, extra={"vm": self._key})
        there = read_catalogue(self._directory)
        latest = there.latest_good
        room = needed(source_bytes, latest.sidecar if latest else None) + side_bytes
        check_room(check_nas(nas).free, room, nas.reserve)
        return there

    def _run_engine(self, subject: Subject, exporter: Exporter) -> tuple[float, Traffic]:
        """Exports under the partial name; answers the seconds that took, and how the bytes came there."""
        began = self._site.clock.monotonic()
        target = self._directory / partial_name(self._stamp, self._own.number, "ova")
        traffic = Monitor(self._site, self._session, self._key, self._own, exporter).run(subject, target)
        return self._site.clock.monotonic() - began, traffic

    def _checked(self, done: int, total: int) -> None:
        self._session.doing.percent = round(100 * done / total, 1) if total else None
        self._session.check()

    def _publish(self, exported: Exported) -> bool:
        sidecar = exported.sidecar
        copy = Copy(sidecar.stamp, sidecar.claim, sidecar.size, sidecar.sha256, sidecar.finished, exported.fingerprint.to_json())
        reason = f"publish {self._key} {copy.stamp}"
        # An error of this commit other than a lost claim leaves open whether the intent was committed: then nothing may be removed.
        try:
            head = self._session.commit(lambda contents: changes.intend(contents, self._key, self._own, copy), reason)
        except LockLostError:
            self._clean_up()
            raise
        self._error = "the copy could not be put in place"
        return publishing.finish(self._site, self._session, changes.held(head.contents, self._key, self._own), self._own)

    def _fail(self, message: str) -> None:
        self._error = message
        when = timestamp(self._site.clock.now())
        self._session.commit(lambda contents: changes.failed(contents, self._key, self._own, message, when), f"{self._key} failed")

    def _clean_up(self) -> None:
        """Undoes what was done to the VM and removes the partial files. Never raises what would hide why it is called."""
        if self._method is not None:
            undo_safely(self._method, self._key)
        try:
            files.remove_own_partials(self._site.files, self._directory, self._own.number)
        except VmBackupError as error:
            log.warning("partial files not removed, a later tick will do it: %s", error.message, extra={"vm": self._key})


def _source_bytes(machine: Machine) -> int:
    """Bytes that its disks take on this host."""
    return allocated(Path(path) for image in machine.images for path in files_of(image))
