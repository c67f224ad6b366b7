"""What the steps of a backup work with: the VM that is held, its policy, and the files of its copy.

Before a VM is touched, what must be undone is committed (`VmRecord.power`). Undoing it is
`put_back`, which may be done by any worker of the VM's host, as often as it takes.
"""

import logging
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from shared.copies.names import Suffix, final_name, partial_name
from shared.host.clock import timestamp
from shared.host.configuration import VmPolicy
from shared.host.errors import (
    ConfigurationError,
    CopyError,
    LockLostError,
    VBoxManageError,
    VmBackupError,
)
from shared.site import Site
from shared.state.records import Power, VmRecord
from shared.state.rules import backup, outages
from shared.state.sessions.holding import Holding
from shared.state.sessions.session import Session
from shared.virtualbox.fingerprint import Fingerprint, differences, fingerprint_of
from shared.virtualbox.inventory import Machine
from shared.virtualbox.power import PowerSwitch
from worker.backup import power_notes, undo
from worker.backup.looks import Looks

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """The files of one copy: their directory, their stamp, and the claim that writes them."""

    directory: Path
    stamp: str
    claim: int
    #: When the backup began.
    started: datetime

    def partial(self, suffix: Suffix) -> str:
        """The name of a file that is being written."""
        return partial_name(self.stamp, self.claim, suffix)

    def partial_path(self, suffix: Suffix) -> Path:
        """Where a file is being written."""
        return self.directory / self.partial(suffix)

    def final_path(self, suffix: Suffix) -> Path:
        """Where the file is when the copy is published."""
        return self.directory / final_name(self.stamp, suffix)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is exported: the VM itself, or a clone that is called `vm_name` in the copy."""

    machine: Machine
    vm_name: str | None = None


class Method(Protocol):
    """One way to export a VM.

    `prepare`, then the export, then `conclude`; `restore` whatever happens.
    """

    def prepare(self) -> Subject:
        """Makes the VM ready. Raises `VmRunsError` if it runs and is to be left alone."""

    def conclude(self) -> Fingerprint:
        """After the export: the fingerprint of what was exported.

        Raises `CopyError` if the VM changed meanwhile. Then undoes all.
        """

    def restore(self) -> None:
        """Undoes what `prepare` did, if that is not done yet."""


@dataclass
class Work:
    """What every method works with."""

    site: Site
    held: Holding
    policy: VmPolicy
    looks: Looks

    @property
    def record(self) -> VmRecord:
        """The VM, as it was when it was claimed."""
        return self.held.record

    @property
    def session(self) -> Session:
        """The session that holds it."""
        return self.held.session

    def machine(self) -> Machine:
        """The VM as it is now. Raises `VBoxManageError` if it cannot be used."""
        return self._usable(self.looks.now(self.record.uuid))

    def seen(self) -> Machine:
        """The VM as it was a moment ago, if nothing was done since. Raises like `machine`."""
        return self._usable(self.looks.recent(self.record.uuid))

    def forget_look(self) -> None:
        """Something was done that may have changed the VM."""
        self.looks.forget(self.record.uuid)

    def _usable(self, machine: Machine | None) -> Machine:
        if machine is None:
            raise VBoxManageError(
                f"{self.record.key} is not registered on this host any more",
                hint="vmfind will show it as missing",
            )
        if not machine.accessible:
            raise VBoxManageError(f"VirtualBox cannot use {self.record.key}: {machine.reason}")
        return machine

    @property
    def switch(self) -> PowerSwitch:
        """The VMs' power buttons."""
        return PowerSwitch(self.site.vboxmanage, self.site.clock)

    def note_power(self, power: Power) -> Power:
        """Commits what is about to be done to the VM, or what is known of it now."""
        key, own = self.held.key, self.held.claim
        since = power.since or timestamp(self.site.clock.now())
        power = replace(power, since=since, node=self.site.node)
        head = self.held.commit(
            lambda contents: backup.touch(contents, key, own, power),
            f"{power.method} {key}, which is {power.found}",
        )
        try:
            power_notes.remember(self.site, self.record.uuid, power, self.session.id, head)
        except ConfigurationError as error:
            if power.method in outages.OUTAGES:  # only a note lets it be started again
                self.held.commit(
                    lambda contents: backup.never_touched(contents, key, own),
                    f"{key} is not touched",
                )
                raise
            log.warning("%s", error.message, extra={"vm": key})
        return power

    def note_restored(self, power: Power) -> None:
        """Commits that the VM is back in the state in which it was found."""
        key, own = self.held.key, self.held.claim
        self.held.commit(
            lambda contents: backup.untouched(contents, key, own), f"{key} is {power.found} again"
        )
        power_notes.forget(self.site, self.record.uuid)


def unchanged(before: Fingerprint | None, machine: Machine) -> Fingerprint:
    """`before`, if the VM is still that. Raises `CopyError` if it is not."""
    after = fingerprint_of(machine)
    if before is None:
        raise CopyError("the VM was not looked at before the export")
    if changed := differences(before, after):
        raise CopyError(
            f"the VM changed during the export, so the copy does not count: {', '.join(changed)}"
        )
    return before


def put_back(work: Work, power: Power) -> None:
    """Brings the VM back to how it was found, and commits that. May be repeated.

    For whoever knows that a backup of this host has done that to it.

    Raises `VmBackupError` if VirtualBox does not let us.
    """
    work.session.doing.phase = f"undo {power.method}"
    if power.method in {"live", "pause"}:
        undo.undo_live(work.site, work.record, power)
    else:
        work.switch.bring_back(work.record.uuid, power.found)
    work.note_restored(power)


def put_back_safely(method: Method, key: str) -> None:
    """Undoes what a failed or interrupted backup did.

    What cannot be undone now stays noted, and the next database worker does it.
    """
    try:
        method.restore()
    except LockLostError:
        log.warning(
            "this worker was displaced: another one brings the VM back to its state",
            extra={"vm": key},
        )
    except VmBackupError as error:
        log.error(  # noqa: TRY400
            "the VM is not back in its state yet: %s; the next tick tries again",
            error.message,
            extra={"vm": key},
        )
