"""Telling whether a process that was noted earlier is still the same one."""

import time
from dataclasses import dataclass, field

import psutil

from shared.host import kernel

#: psutil rounds a process's start time to clock ticks, and on some systems a step of the wall clock
#: moves it.
START_TOLERANCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process on one machine; its start tells it from a later one with the same number.

    `started` is seconds since the epoch, which a step of the wall clock moves: programs before this
    one compare it. `born` is the kernel's own count (`shared.host.kernel`), which nothing moves;
    empty where it is not known. `command` is what it was started as, where that is noted.
    """

    pid: int
    started: float
    born: str = ""
    command: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """The process that has this number now; None if there is none."""
        try:
            started = round(psutil.Process(pid).create_time(), 2)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        found = kernel.look(pid)
        return cls(pid, started, found.born if found else "")

    def is_alive(self) -> bool:
        """Whether this very process may still run.

        False is proof: no such process, an unawaited zombie, or one born at another moment.

        Clocks that differ prove nothing, nor does a process that this user cannot see: never call a
        live process dead.
        """
        if not kernel.exists(self.pid):
            return False
        found = kernel.look(self.pid)
        return found is None or not (found.ended or kernel.born_differ(self.born, found.born))

    def is_certain(self) -> bool:
        """Whether the process of this number is certainly this one, and runs.

        What must be so before it is sent a signal.
        """
        found = kernel.look(self.pid) if 0 < self.pid < kernel.PROCESS_LIMIT else None
        if found is None or found.ended:
            return False
        if self.born and found.born:
            return self.born == found.born
        now = ProcessIdentity.of(self.pid)
        return now is not None and abs(now.started - self.started) < START_TOLERANCE_SECONDS


def is_stopped(pid: int) -> bool:
    """Whether the process of that number was stopped, and goes on only when it is told to."""
    try:
        state = str(psutil.Process(pid).status())
    except psutil.Error:
        return False
    return state in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


def wait_until_gone(
    identity: ProcessIdentity, *, timeout_seconds: float, poll_seconds: float = 0.1
) -> bool:
    """Waits until the process has ended; False if it still runs after `timeout_seconds`."""
    end = time.monotonic() + timeout_seconds
    while identity.is_alive():
        if time.monotonic() >= end:
            return False
        time.sleep(poll_seconds)
    return True
