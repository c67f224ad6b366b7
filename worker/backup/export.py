"""One VM's backup: from the claim to the intent to publish.

Every way out leaves no partial file and a committed state.
"""

import logging
import platform
from dataclasses import dataclass
from typing import Final

from shared.copies.names import final_name, make_stamp, partial_name
from shared.copies.partials import remove_own_partials
from shared.copies.publishing import seal
from shared.copies.sidecar import Sidecar, Wire
from shared.host.clock import timestamp
from shared.host.errors import ExitCode, LockLostError, VmBackupError
from shared.nas.mount import check_nas
from shared.ova.check import check_ova
from shared.site import Site
from shared.state.records import Copy
from shared.state.rules import changes
from shared.state.sessions.holding import Holding
from shared.virtualbox.export import Exporter, Traffic, VmRunsError
from shared.virtualbox.fingerprint import Fingerprint
from worker.backup import publish
from worker.backup.delta import plan_delta
from worker.backup.engine_choice import EngineFaultError, Modesty, choose_engine
from worker.backup.hooks import Hooks
from worker.backup.left_out import Place
from worker.backup.method import Method, Subject, Work, choose, put_back_safely
from worker.backup.monitor import Monitor
from worker.backup.preparation import Settled, settle
from worker.backup.priority import in_background
from worker.backup.readiness import PostponedError
from worker.backup.room import source_bytes

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exported:
    """A partial copy that was made and checked."""

    sidecar: Sidecar
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class Ready:
    """A VM that was brought into a state in which it can be exported, and what was settled before."""

    method: Method
    subject: Subject
    settled: Settled


class Backup:
    """The backup of one VM that this session has claimed.

    `insists`: its operator wants it now, however often it was stopped for nothing. `nas_refused`:
    it failed because of the NAS.
    """

    def __init__(self, site: Site, held: Holding, *, insists: bool = False) -> None:
        self._site, self._held = site, held
        self._session, self._record, self._own = held.session, held.record, held.claim
        record, own = held.record, held.claim
        self._key = record.key
        self._directory = site.directory(record)
        self._work = Work(site, held, site.configuration.policy_for(record.name))
        self._started = site.clock.now()
        self._stamp = make_stamp(self._started, own.number)
        self._place = Place(self._directory, self._stamp, own.number)
        self._hooks = Hooks(self._work.policy, self._facts(), self._key)
        self._error = ""
        self._insists = insists
        self._method: Method | None = None
        self._ready: Ready | None = None
        self.nas_refused = False

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
        """Makes the copy and publishes it; answers its sidecar if the VM is CLEAN now.

        Raises `LockLostError` if this worker was displaced.

        A VM that turns out to run is committed as RUNNING and raises `VmRunsError`; one whose
        backup has to wait is committed as waiting and raises `PostponedError`; any other failure is
        committed and answered. Whatever happens, the VM is brought back to the power state in which
        it was found, or that stays noted for the next tick.
        """
        try:
            exported = self._export_somehow()
        except VmRunsError as error:
            self._clean_up()
            when, why = timestamp(self._site.clock.now()), f"{self._key}: {error.message}"
            self._session.commit(
                lambda contents: changes.found_running(contents, self._key, self._own, when), why
            )
            raise
        except PostponedError as error:
            when, why = timestamp(self._site.clock.now()), error.verdict.reason
            self._session.commit(
                lambda contents: changes.postponed(contents, self._key, self._own, why, when),
                f"{self._key} {why}",
            )
            raise
        except LockLostError:
            self._clean_up()
            raise
        except VmBackupError as error:
            self._clean_up()
            self.nas_refused = error.exit_code == ExitCode.NAS
            self._fail(error.message)
            log.error(  # noqa: TRY400
                "backup failed: %s%s",
                error.message,
                f" ({error.hint})" if error.hint else "",
                extra={"vm": self._key},
            )
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
        """Exports; what fails in one way and may succeed in a more modest one is begun anew.

        A VM that was stopped stays so meanwhile.
        """
        modesty = Modesty()
        while True:
            try:
                return self._export(modesty)
            except EngineFaultError as fault:
                if self._ready is None:
                    self._clean_up()
                else:
                    self._remove_partials()
                log.warning(
                    "%s; it is tried again without that", fault.message, extra={"vm": self._key}
                )
                modesty = fault.modesty

    def _make_ready(self, modesty: Modesty) -> Ready:
        """Settles all else, and only then does to the VM what its policy says."""
        self._method = choose(self._work)
        settled = settle(self._work, self._method, self._place, modesty, insists=self._insists)
        for what in settled.beside.left_out:
            log.warning("not in the copy: %s", what, extra={"vm": self._key})
        self._hooks.before()
        return Ready(self._method, self._method.prepare(), settled)

    def _export(self, modesty: Modesty) -> Exported:
        self._ready = ready = self._ready or self._make_ready(modesty)
        machine = ready.subject.machine
        delta = plan_delta(self._site, self._place, ready.settled.there, modesty.whole)
        engine = choose_engine(self._site, self._work.policy, machine, delta, modesty)
        if engine.reason:
            log.info("exported by VBoxManage: %s", engine.reason, extra={"vm": self._key})
        disks = source_bytes(machine)
        with engine.judged():
            seconds, traffic = self._run_engine(ready.subject, engine.exporter)
        kept = ready.settled.beside.keep(ready.subject, self._place)
        self._ready = None
        fingerprint = ready.method.conclude()
        self._session.doing.phase = "check"
        name = partial_name(self._stamp, self._own.number, "ova")
        nice = self._site.configuration.backup.nice
        with engine.judged():
            found = in_background(
                nice,
                lambda stop: check_ova(
                    self._directory, name, progress=self._checked, should_stop=stop
                ),
            )
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
            source_bytes=disks,
            files=kept,
            left_out=ready.settled.beside.left_out,
            engine_reason=engine.reason,
            wire=Wire(found.size - traffic.copied, traffic.copied, engine.whole or traffic.reason),
        )
        check_nas(self._site.configuration.nas, write=True)
        seal(self._site.files, self._directory, sidecar)
        return Exported(sidecar, fingerprint)

    def _run_engine(self, subject: Subject, exporter: Exporter) -> tuple[float, Traffic]:
        """Exports under the partial name.

        Answers the seconds that took, and how the bytes came there.
        """
        began = self._site.clock.monotonic()
        target = self._directory / partial_name(self._stamp, self._own.number, "ova")
        traffic = Monitor(self._site, self._held, exporter).run(subject, target)
        return self._site.clock.monotonic() - began, traffic

    def _checked(self, done: int, total: int) -> None:
        self._session.doing.percent = round(100 * done / total, 1) if total else None
        self._session.check()

    def _publish(self, exported: Exported) -> bool:
        sidecar = exported.sidecar
        copy = Copy(
            sidecar.stamp,
            sidecar.claim,
            sidecar.size,
            sidecar.sha256,
            sidecar.finished,
            exported.fingerprint.to_json(),
        )
        reason = f"publish {self._key} {copy.stamp}"
        # An error of this commit other than a lost claim leaves open whether the intent was
        # committed: then nothing may be removed.
        try:
            self._held.commit(
                lambda contents: changes.intend(contents, self._key, self._own, copy), reason
            )
        except LockLostError:
            self._clean_up()
            raise
        self._error = "the copy could not be put in place"
        return publish.finish(self._site, self._held)

    def _fail(self, message: str) -> None:
        self._error = message
        when = timestamp(self._site.clock.now())
        self._session.commit(
            lambda contents: changes.failed(contents, self._key, self._own, message, when),
            f"{self._key} failed",
        )

    def _clean_up(self) -> None:
        """Undoes what was done to the VM and removes the partial files.

        Never raises what would hide why it is called.
        """
        if self._method is not None:
            put_back_safely(self._method, self._key)
        self._remove_partials()

    def _remove_partials(self) -> None:
        try:
            remove_own_partials(self._site.files, self._directory, self._own.number)
        except VmBackupError as error:
            log.warning(
                "partial files not removed, a later tick will do it: %s",
                error.message,
                extra={"vm": self._key},
            )
