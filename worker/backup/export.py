"""One VM's copy under partial names: the VM is made ready and exported, and the copy is checked.

Measured with VirtualBox 7.2.22: an `.ova` has no memory of a saved VM, no snapshots, and the
firmware's variables only of an EFI VM. The state of a TPM is in the same `.nvram` file as those: of
a VM with BIOS and TPM it is not in the `.ova`. What is left out is kept in side files.
"""

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.copies.catalogue import Catalogue
from shared.copies.names import Suffix
from shared.copies.partials import remove_own_partials
from shared.copies.side_files import keep as keep_side_file
from shared.copies.side_files import member_names, pieces_of
from shared.copies.sidecar import Sidecar, SideFile
from shared.host.errors import CopyError, VmBackupError
from shared.nas import server_copy
from shared.nas.server_copy import Answer
from shared.state.states import Event
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import SettingsError, read_file
from worker.backup.delta import plan_delta
from worker.backup.engine import EngineRun, choose_engine
from worker.backup.fallback import EngineFaultError, Fallback, retried
from worker.backup.freezing import Frozen, FrozenVm, Pieces, freezing, standing
from worker.backup.hooks import Hooks
from worker.backup.method import choose_method, preflight
from worker.backup.publish import Exported, check, seal, try_import
from worker.backup.room import source_bytes, state_file
from worker.backup.work import Method, Subject, Target, Work, put_back_safely

if TYPE_CHECKING:
    from shared.export.freezing import CloneFile

log: Final = logging.getLogger(__name__)


class SideFiles:
    """The side files of one copy.

    Made before the VM is touched, `keep` called after the export and before the VM is let go.
    """

    def __init__(self, work: Work, machine: Machine) -> None:
        self._work, self._machine = work, machine
        self._settings = self._read(machine)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What of the VM is in none of the files, in words."""
        said = []
        if self._machine.settings and self._machine.settings.snapshot:
            said.append("its snapshots: the copy has the VM's current state only")
        if memory := state_file(self._machine):
            if self._work.policy.saved == "warn":
                said.append('its saved memory (saved = "warn")')
            elif not os.path.exists(memory):
                said.append(f"its saved memory: {memory} is gone")
        return tuple(said)

    def freeze(self, machine: Machine, clone: "CloneFile") -> Pieces:
        """The VM's files as they are now, for `keep`; the saved memory, if it is kept, is cloned.

        Raises `NotFrozenError` if that cannot be, `CopyError`.
        """
        found = self._found(machine, lambda memory: pieces_of(clone(memory)))
        return {**found, "nvram": list(found["nvram"])} if "nvram" in found else found

    def keep(
        self, subject: Subject, target: Target, frozen: Pieces | None
    ) -> dict[Suffix, SideFile]:
        """Writes them under partial names: those that were `frozen` with the disks, else as now.

        Raises `CopyError`, `NasError`, `LockLostError`.
        """
        self._work.session.doing.phase = "side files"
        found = self._found(subject.machine, pieces_of) if frozen is None else dict(frozen)
        if subject.vm_name is not None:  # of a clone only its original's settings mean anything
            found["vbox"] = [self._settings]
        if "nvram" in found:
            members = member_names(target.directory, target.partial("ova"))
            if any(member.endswith(".nvram") for member in members):
                del found["nvram"]
        return {suffix: self._keep(target, suffix, pieces) for suffix, pieces in found.items()}

    def _found(self, machine: Machine, memory: Callable[[Path], Iterable[bytes]]) -> Pieces:
        """The files that there are now; the saved one, which may be large, as `memory` has it."""
        found: Pieces = {"vbox": [self._read(machine)]}
        if state := self._state_file(machine):
            found["sav"] = memory(Path(state))
        if os.path.exists(machine.nvram_file):
            found["nvram"] = pieces_of(Path(machine.nvram_file))
        return found

    def _keep(self, target: Target, suffix: Suffix, pieces: Iterable[bytes]) -> SideFile:
        return keep_side_file(
            self._work.site.files,
            target.directory,
            target.partial(suffix),
            pieces,
            check=self._work.session.check,
        )

    def _read(self, machine: Machine) -> bytes:
        try:
            return read_file(machine.settings_file, self._work.site.clock.sleep)
        except SettingsError as error:
            raise CopyError(f"its settings cannot be kept: {error}") from None

    def _state_file(self, machine: Machine) -> str:
        """Where the memory is that is to be kept; one that is gone is said to be left out."""
        memory = state_file(machine) if self._work.policy.saved == "keep" else ""
        return memory if memory and os.path.exists(memory) else ""


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

    def standing(self) -> Event:
        """How the VM stands to its copy when that is published.

        One that stayed locked while it was read is as it was, as far as anybody has looked. One
        that was frozen may have been used for as long as the export took: it is looked at.
        """
        if self._moment is None:
            return Event.PUBLISHED
        return standing(self._work, self._moment.fingerprint)

    def keep_clones(self) -> None:
        """The copy counts: what was frozen for it serves the next one."""
        if self._frozen:
            self._frozen.keep(self._target.stamp, self._target.final_path("index"))

    def discard_clones(self) -> None:
        """Removes what was frozen and is not kept. May be repeated."""
        if self._frozen:
            self._frozen.discard()

    def undo(self) -> None:
        """Undoes what was done to the VM and removes the partial files.

        Never raises what would hide why it is called.
        """
        if self._method is not None:
            put_back_safely(self._method, self._work.held.key)
        self._remove_partials()

    def _attempt(self, fallback: Fallback) -> Sidecar:
        work, target = self._work, self._target
        self._ready = ready = self._ready or self._make_ready(fallback)
        self._frozen = frozen = freezing(
            work, ready.method, ready.subject.machine, ready.side_files
        )
        exported = self._export(ready, fallback, frozen)
        with retried(exported.engine.retry):
            found = check(work, target)
        return seal(work, target, exported, found, try_import(work, target))

    def _export(self, ready: _Ready, fallback: Fallback, frozen: Frozen | None) -> Exported:
        work, target, machine = self._work, self._target, ready.subject.machine
        delta = plan_delta(work.site, target, ready.copies, ready.server, fallback.no_delta)
        freezer = frozen.freezer if frozen else None
        engine = choose_engine(work.site, work.policy, machine, delta, fallback, freezer)
        if engine.reason:
            log.info("exported by VBoxManage: %s", engine.reason, extra={"vm": work.held.key})
        disks, began = source_bytes(machine), work.site.clock.monotonic()
        with retried(engine.retry):
            run = EngineRun(work.site, work.held, engine.exporter)
            traffic = run.run(ready.subject, target.partial_path("ova"))
        seconds = work.site.clock.monotonic() - began
        if freezer and freezer.reason:
            log.info("not frozen: %s", freezer.reason, extra={"vm": work.held.key})
        self._moment = moment = frozen.moment if frozen else None
        kept = ready.side_files.keep(ready.subject, target, moment.files if moment else None)
        self._ready = None
        return Exported(
            fingerprint=moment.fingerprint if moment else ready.method.conclude(),
            frozen=moment is not None,
            engine=engine,
            traffic=traffic,
            seconds=seconds,
            source_bytes=disks,
            side_files=kept,
            left_out=ready.side_files.left_out,
            taken_from=delta.sources if traffic.copied else (),
        )

    def _make_ready(self, fallback: Fallback) -> _Ready:
        """Settles all else, and only then does to the VM what its policy says."""
        work, target = self._work, self._target
        self._method = method = choose_method(work)
        machine = work.machine()
        copies = preflight(work, method, machine, target, fallback, forced=self._forced)
        side_files = SideFiles(work, machine)
        for what in side_files.left_out:
            log.warning("not in the copy: %s", what, extra={"vm": work.held.key})
        server = self._server()
        self._hooks.before()
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
        except VmBackupError as error:
            log.warning(
                "partial files not removed, a later tick will do it: %s",
                error.message,
                extra={"vm": self._work.held.key},
            )
