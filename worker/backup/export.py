"""One VM's copy under partial names: the VM is made ready and exported, and the copy is checked."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shared.copies.catalogue import Catalogue
from shared.copies.partials import remove_own_partials
from shared.copies.sidecar import Sidecar
from shared.export.exporter import VBoxManageExporter
from shared.host.errors import VmBackupError
from shared.host.logs import NOTICE
from shared.nas import server_copy
from shared.nas.server_copy import Answer
from shared.state.states import Event
from worker.backup.delta_choice import plan_delta
from worker.backup.engine_choice import EngineRun, choose_engine
from worker.backup.fallback import EngineFaultError, Fallback, retried
from worker.backup.freeze_choice import Frozen, FrozenVm, freezing, publication_event
from worker.backup.hooks import Hooks
from worker.backup.live import Live
from worker.backup.method import choose_method, preflight
from worker.backup.paused import Paused
from worker.backup.publish import Exported, check, seal, try_import
from worker.backup.room import source_bytes
from worker.backup.side_file_keeping import SideFiles
from worker.backup.work import Method, Subject, Target, Work, put_back_safely

if TYPE_CHECKING:
    from shared.export.raw_digests import RawDigests

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A VM that can be exported now."""

    method: Method
    subject: Subject
    side_files: SideFiles
    copies: Catalogue
    server: Answer


class Export:
    """The export of one VM. `run` once, and `undo` if anything after it fails."""

    def __init__(self, work: Work, target: Target, hooks: Hooks, *, forced: bool) -> None:
        self._work, self._target, self._hooks, self._forced = work, target, hooks, forced
        self._method: Method | None = None
        self._ready: _Ready | None = None
        self._moment: FrozenVm | None = None
        self._frozen: Frozen | None = None
        self._digests: RawDigests | None = None

    def run(self) -> Sidecar:
        """Exports, checks and seals the copy under its partial name; returns its sidecar.

        What fails in one way and may succeed in a simpler one is begun anew. A VM that was stopped
        stays so meanwhile. Raises what went wrong, with nothing undone yet.
        """
        fallback = Fallback()
        while True:
            try:
                return self._attempt(fallback)
            except EngineFaultError as fault:
                self.discard_clones()
                if self._ready is None:
                    self.undo()
                else:
                    self._remove_partials()
                log.warning(
                    "%s; it is tried again without that",
                    fault.message,
                    extra={"vm": self._work.held.key},
                )
                fallback = fault.fallback

    def publication_event(self) -> Event:
        """How the VM stands to its copy when that is published.

        One that stayed locked while it was read is as it was, as far as anybody has looked. One
        that was frozen may have been used for as long as the export took: it is looked at.
        """
        if self._moment is None:
            return Event.PUBLISHED
        return publication_event(self._work, self._moment.fingerprint)

    def keep_clones(self) -> None:
        """The copy counts: what was frozen or noted for it serves the next one."""
        stamp, index = self._target.stamp, self._target.final_path("index")
        if self._frozen:
            self._frozen.keep(stamp, index)
        if self._digests:
            self._digests.keep(stamp, index)

    def discard_clones(self) -> None:
        """Removes what was frozen or noted and is not kept. May be repeated."""
        if self._frozen:
            self._frozen.discard()
        if self._digests:
            self._digests.discard()

    def undo(self) -> None:
        """Undoes what was done to the VM and removes the partial files.

        Never raises what would hide why it is called.
        """
        if self._method is not None:
            put_back_safely(self._method, self._work.held.key)
        self._remove_partials()

    def _attempt(self, fallback: Fallback) -> Sidecar:
        work, target = self._work, self._target
        work.session.tidied.discard(target.claim)  # it was, after an attempt before
        self._ready = ready = self._ready or self._make_ready(fallback)
        self._frozen = frozen = freezing(
            work, ready.method, ready.subject.machine, ready.side_files
        )
        exported = self._export(ready, fallback, frozen)
        with retried(exported.engine.retry):
            found = check(work, target, exported)
        return seal(work, target, exported, found, try_import(work, target))

    def _export(self, ready: _Ready, fallback: Fallback, frozen: Frozen | None) -> Exported:
        work, target, machine = self._work, self._target, ready.subject.machine
        paused = ready.method if isinstance(ready.method, Paused) else None
        delta = plan_delta(work, target, ready.copies, ready.server, fallback.no_delta)
        freezer = frozen.freezer if frozen else None
        self._digests = delta.digests
        engine = choose_engine(work.site, work.policy, machine, delta, fallback, freezer)
        if engine.reason:
            log.info("exported by VBoxManage: %s", engine.reason, extra={"vm": work.held.key})
        if engine.exporter.name == VBoxManageExporter.name and work.site.pace().bytes_per_second:
            log.log(
                NOTICE,
                "backup.bytes_per_second does not bound this export: VBoxManage itself sends it",
                extra={"vm": work.held.key},
            )
        disks, began = source_bytes(machine), work.site.clock.monotonic()
        with retried(engine.retry):
            guard = paused.require_room if paused else lambda: None
            run = EngineRun(work.site, work.held, engine.exporter, guard)
            traffic = run.run(ready.subject, target.partial_path("ova"))
        seconds = work.site.clock.monotonic() - began
        if freezer and freezer.reason:
            log.info("not frozen: %s", freezer.reason, extra={"vm": work.held.key})
        self._moment = moment = frozen.moment if frozen else None
        kept = ready.side_files.keep(ready.subject, target, moment.files if moment else None)
        self._ready = None
        return Exported(
            fingerprint=moment.fingerprint if moment else ready.method.conclude(),
            frozen=frozen is not None and frozen.done,
            compared=delta.digests is not None and delta.digests.begun,
            engine=engine,
            traffic=traffic,
            seconds=seconds,
            source_bytes=disks,
            side_files=kept,
            left_out=ready.side_files.left_out,
            taken_from=delta.sources if traffic.copied else (),
            oldest_read=delta.oldest_read if traffic.parts else "",
            not_paused=ready.method.instead if isinstance(ready.method, Live) else "",
            paused_seconds=paused.stood_still if paused else 0.0,
        )

    def _make_ready(self, fallback: Fallback) -> _Ready:
        """Settles all else, and only then does to the VM what its policy says."""
        work, target = self._work, self._target
        machine = work.seen()
        self._method = method = choose_method(work, machine)
        copies = preflight(work, method, machine, target, fallback, forced=self._forced)
        side_files = SideFiles(work, machine)
        for what in side_files.data_left_out:
            log.warning("not in the copy: %s", what, extra={"vm": work.held.key})
        server = self._server()
        if self._hooks.before():
            work.forget_look()
        return _Ready(method, method.prepare(), side_files, copies, server)

    def _server(self) -> Answer:
        """What the NAS copies by itself: measured before the VM is touched, if it must be."""
        if self._work.policy.engine == "vboxmanage":
            return Answer(None)
        site = self._work.site
        nas, host = site.configuration.nas, site.configuration.host
        return server_copy.look_up(nas, site.nas, host.state_directory, site.clock)

    def _remove_partials(self) -> None:
        try:
            remove_own_partials(self._work.site.files, self._target.directory, self._target.claim)
            self._work.session.tidied.add(self._target.claim)
        except VmBackupError as error:
            log.warning(
                "partial files not removed, a later tick will do it: %s",
                error.message,
                extra={"vm": self._work.held.key},
            )
