"""One VM's copy under partial names: the VM is made ready and exported, and the copy is checked.

Measured with VirtualBox 7.2.22: an `.ova` has no memory of a saved VM, no snapshots, and the
firmware's variables only of an EFI VM. The state of a TPM is in the same `.nvram` file as those: of
a VM with BIOS and TPM it is not in the `.ova`. What is left out is kept in side files.
"""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.copies.catalogue import Catalogue
from shared.copies.names import Suffix
from shared.copies.partials import remove_own_partials
from shared.copies.side_files import keep as keep_side_file
from shared.copies.side_files import member_names, pieces_of
from shared.copies.sidecar import Sidecar, SideFile
from shared.host.errors import CopyError, VmBackupError
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import SettingsError, read_file
from worker.backup.delta import plan_delta
from worker.backup.engine import EngineRun, choose_engine
from worker.backup.fallback import EngineFaultError, Fallback, retried
from worker.backup.hooks import Hooks
from worker.backup.method import choose_method, preflight
from worker.backup.publish import Exported, check, seal, try_import
from worker.backup.room import source_bytes, state_file
from worker.backup.work import Method, Subject, Target, Work, put_back_safely

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
        if state_file(self._machine) and self._work.policy.saved == "warn":
            said.append('its saved memory (saved = "warn")')
        return tuple(said)

    def keep(self, subject: Subject, target: Target) -> dict[Suffix, SideFile]:
        """Writes them under partial names. Raises `CopyError`, `NasError`, `LockLostError`."""
        self._work.session.doing.phase = "side files"
        if subject.vm_name is None:  # of a clone only its original's settings mean anything
            self._settings = self._read(subject.machine)
        kept = {"vbox": self._keep(target, "vbox", [self._settings])}
        if memory := self._state_file(subject.machine):
            kept["sav"] = self._keep(target, "sav", pieces_of(Path(memory)))
        if os.path.exists(subject.machine.nvram_file):
            members = member_names(target.directory, target.partial("ova"))
            if not any(member.endswith(".nvram") for member in members):
                kept["nvram"] = self._keep(
                    target, "nvram", pieces_of(Path(subject.machine.nvram_file))
                )
        return kept  # type: ignore[return-value]

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
        return state_file(machine) if self._work.policy.saved == "keep" else ""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A VM that can be exported now."""

    method: Method
    subject: Subject
    side_files: SideFiles
    copies: Catalogue


class Export:
    """The export of one VM. `run` once, and `undo` if anything after it fails."""

    def __init__(self, work: Work, target: Target, hooks: Hooks, *, forced: bool) -> None:
        self._work, self._target, self._hooks, self._forced = work, target, hooks, forced
        self._method: Method | None = None
        self._ready: _Ready | None = None

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
        machine, side_files = ready.subject.machine, ready.side_files
        delta = plan_delta(work.site, target, ready.copies, fallback.no_delta)
        engine = choose_engine(work.site, work.policy, machine, delta, fallback)
        if engine.reason:
            log.info("exported by VBoxManage: %s", engine.reason, extra={"vm": work.held.key})
        disks, began = source_bytes(machine), work.site.clock.monotonic()
        with retried(engine.retry):
            run = EngineRun(work.site, work.held, engine.exporter)
            traffic = run.run(ready.subject, target.partial_path("ova"))
        seconds = work.site.clock.monotonic() - began
        kept = side_files.keep(ready.subject, target)
        self._ready = None
        exported = Exported(
            fingerprint=ready.method.conclude(),
            engine=engine,
            traffic=traffic,
            seconds=seconds,
            source_bytes=disks,
            side_files=kept,
            left_out=side_files.left_out,
        )
        with retried(engine.retry):
            found = check(work, target)
        return seal(work, target, exported, found, try_import(work, target))

    def _make_ready(self, fallback: Fallback) -> _Ready:
        """Settles all else, and only then does to the VM what its policy says."""
        work, target = self._work, self._target
        self._method = method = choose_method(work)
        machine = work.machine()
        copies = preflight(work, method, machine, target, fallback, forced=self._forced)
        side_files = SideFiles(work, machine)
        for what in side_files.left_out:
            log.warning("not in the copy: %s", what, extra={"vm": work.held.key})
        self._hooks.before()
        return _Ready(method, method.prepare(), side_files, copies)

    def _remove_partials(self) -> None:
        try:
            remove_own_partials(self._work.site.files, self._target.directory, self._target.claim)
        except VmBackupError as error:
            log.warning(
                "partial files not removed, a later tick will do it: %s",
                error.message,
                extra={"vm": self._work.held.key},
            )
