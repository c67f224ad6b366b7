"""Processes: starting them with a bound, and telling whether one that was seen before is still the same."""

import contextlib
import logging
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import psutil

from shared.host import kernel
from shared.host.machine_id import own_machine_id, system_machine_id

log: Final = logging.getLogger(__name__)

#: psutil rounds a process's start time to clock ticks, and on some systems a step of the wall clock
#: moves it.
START_TOLERANCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Completed:
    r"""How a command ended.

    Output is decoded as UTF-8 with line ends made `\\n`; bytes that are no UTF-8 are escaped, never
    dropped.
    """

    arguments: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    timed_out: bool = False


class Runner(Protocol):
    """Runs a command to its end. Tests put a recording one here."""

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """Runs `arguments` with stdin closed, waits at most `timeout_seconds`.

        A command that does not end in time is terminated (TERM, then KILL after five seconds) and
        returned with `timed_out`; so is one whose waiting is interrupted, and that exception goes
        on. Raises OSError if it cannot be started. `environment` is added to the caller's.
        """


class SubprocessRunner:
    """Runs real processes."""

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """See `Runner.run`."""
        process = subprocess.Popen(
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        began, timed_out = time.monotonic(), False
        try:
            stdout, stderr = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
            stdout, stderr = _end(process)
        except BaseException:  # we are interrupted: what we started does not go on without us
            _end(process)
            raise
        finally:
            log_ended(arguments, process.returncode, time.monotonic() - began)
        return Completed(
            tuple(arguments), process.returncode, _text(stdout), _text(stderr), timed_out
        )


def log_ended(arguments: Sequence[str], status: int | None, seconds: float) -> None:
    """Notes a command that was run, for `-v -v`.

    `status`: negative for a signal, None if it did not end.
    """
    if log.isEnabledFor(logging.DEBUG):
        words = " ".join(
            shlex.quote(word) if word.isprintable() else repr(word) for word in arguments
        )
        how = (
            "does not end"
            if status is None
            else f"status {status}"
            if status >= 0
            else f"ended by signal {-status}"
        )
        log.debug("%s: %s after %.2f s", words, how, seconds)


def _end(process: "subprocess.Popen[bytes]") -> tuple[bytes, bytes]:
    """Terminates the group of `process` and collects what it had printed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            return process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            continue
    return b"", b""


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="backslashreplace").replace("\r\n", "\n")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process on one machine, told apart from a later one with the same number by when it started.

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


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """What tells one running machine from another.

    `node` is the configured name. `hostname`, `machine` and `space` (the process-number space: a
    container has its own) say whether process numbers can be compared; `boot` says whether the
    machine was restarted in between.
    """

    node: str
    hostname: str
    machine: str
    boot: str
    space: str

    @classmethod
    def of_this_machine(
        cls, node: str, state_directory: Path | None = None, *, make: bool = True
    ) -> "HostIdentity":
        """Reads the identity from the system.

        Empty strings stand for what the system does not tell.

        A machine without a machine id is known by one that is kept in `state_directory` and, unless
        `make` is false, made there. Raises `ConfigurationError` if that cannot be done.
        """
        machine = system_machine_id(_printed)
        if not machine and state_directory is not None:
            machine = own_machine_id(state_directory, make=make)
        return cls(
            node, socket.gethostname(), machine, kernel.boot_id(_printed), kernel.process_space()
        )

    def same_machine(self, other: "HostIdentity") -> bool:
        """Whether process numbers of `other` mean something here.

        False when in doubt: a machine id can be that of a cloned disk.
        """
        return bool(self.machine) and (self.node, self.machine, self.hostname, self.space) == (
            other.node,
            other.machine,
            other.hostname,
            other.space,
        )

    def restarted_since(self, other: "HostIdentity") -> bool:
        """Whether the machine was certainly restarted since `other`, the same machine, was read."""
        return kernel.boots_differ(self.boot, other.boot)


def _printed(arguments: Sequence[str]) -> str:
    try:
        return SubprocessRunner().run(arguments, timeout_seconds=10).stdout
    except OSError:
        return ""


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
