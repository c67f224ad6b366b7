"""How a worker ended, and the one worker of a kind that a host runs at a time."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.host.errors import ExitCode, LockedError, VmBackupError
from shared.host.host_lock import host_lock
from shared.host.logs import NOTICE
from shared.state.sessions.worker_ends import note_end

if TYPE_CHECKING:
    from shared.command_line import Invocation
    from shared.host.configuration import Configuration
    from shared.site import Site

log: Final = logging.getLogger(__name__)


@dataclass
class Report:
    """What a worker achieved. Names of VMs, for the log and the exit code."""

    done: list[str] = field(default_factory=list)
    #: Those that a worker began with, however that ended.
    begun: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    deferred: list[str] = field(default_factory=list)
    #: Left for a later tick as their policy or the limit of exports says, or because there is no
    #: room: no failure.
    postponed: list[str] = field(default_factory=list)
    #: Those of the failed and postponed ones that have the NAS to thank for it: it is full, or does
    #: not let us write.
    nas: list[str] = field(default_factory=list)

    def fail(self, key: str, error: VmBackupError) -> None:
        """Takes note of a VM that failed, and whether it was because of the NAS."""
        self.failed.append(key)
        if error.exit_code == ExitCode.NAS:
            self.nas.append(key)

    @property
    def exit_code(self) -> ExitCode:
        """The exit code that says this."""
        if self.nas:
            return ExitCode.NAS
        if self.failed:
            return ExitCode.SOME_FAILED
        return ExitCode.SOME_DEFERRED if self.deferred else ExitCode.DONE


@contextlib.contextmanager
def slot(state_directory: Path, kind: str, slots: int = 1) -> Iterator[bool]:
    """Takes one of this host's slots for a kind of worker.

    Yields False when all are taken, which is no error: cron started one too many.

    Raises `ConfigurationError` if the state directory cannot be used.
    """
    for number in range(slots):
        with host_lock(state_directory, f"{kind}-{number}") as mine:
            if mine:
                yield True
                return
    log.log(NOTICE, "%s already runs on this host: nothing to do", kind)
    yield False


def start(
    invocation: "Invocation",
    kind: str,
    work: "Callable[[Site], Report]",
    slots: "Callable[[Configuration], int]" = lambda _: 1,
    *,
    asked: bool = False,
) -> ExitCode:
    """Runs a worker if one of this host's slots for its kind is free. Returns its exit code.

    `asked`: a person asked for something, and is told if none is free. Raises `LockedError` then.
    """
    from shared.host.clock import SystemClock
    from shared.site import open_site
    from worker import clone_sweep
    from worker.progress import waits_shown

    configuration = invocation.configuration()
    with slot(configuration.host.state_directory, kind, slots(configuration)) as free:
        if not free and asked:
            raise LockedError(
                f"{kind} already runs on this host: nothing was done",
                hint="give the command again when that has ended; `vmbackup-lock list` shows it. "
                f"backup.parallel is {slots(configuration)}",
            )
        if not free:
            return ExitCode.DONE
        host, nas = configuration.host, configuration.nas
        note = partial(note_end, host.state_directory, nas.mountpoint, kind, clock=SystemClock())
        try:
            with waits_shown():
                site = open_site(configuration, SystemClock())
                clone_sweep.sweep(site)  # before anything else: a full disk stops VMs
                code = work(site).exit_code
        except Exception as error:  # one that was stopped by a signal says nothing of this host
            note(error.exit_code if isinstance(error, VmBackupError) else ExitCode.FAILURE)
            raise
        note(code)
    return code
