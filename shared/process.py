"""Processes: starting them with a bound, and telling whether one that was seen before is still the same."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

#: psutil rounds a process's start time to clock ticks, and on some systems a step of the wall clock moves it.
START_TOLERANCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Completed:
    r"""How a command ended. Output is decoded as UTF-8 with line ends made `\\n`; bytes that are no UTF-8 are escaped, never dropped."""

    arguments: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    timed_out: bool = False


class Runner(Protocol):
    """Runs a command to its end. Tests put a recording one here."""

    def run(self, arguments: Sequence[str], *, timeout_seconds: float, environment: Mapping[str, str] | None = None) -> Completed:
        """Runs `arguments` with stdin closed, waits at most `timeout_seconds`.

        A command that does not end in time is terminated (TERM, then KILL after five seconds) and returned with `timed_out`.
        Raises OSError if it cannot be started. `environment` is added to the caller's.
        """


class SubprocessRunner:
    """Runs real processes."""

    def run(self, arguments: Sequence[str], *, timeout_seconds: float, environment: Mapping[str, str] | None = None) -> Completed:
        """See `Runner.run`."""
        process = subprocess.Popen(
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        timed_out = False
        try:
            stdout, stderr = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
            stdout, stderr = _end(process)
        return Completed(tuple(arguments), process.returncode, _text(stdout), _text(stderr), timed_out)


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
    """One process on one machine, told apart from a later one with the same number by its start time (seconds since the epoch)."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """The process that has this number now; None if there is none."""
        try:
            return cls(pid, round(psutil.Process(pid).create_time(), 2))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None

    def is_alive(self) -> bool:
        """Whether this very process still runs. A zombie that nobody has waited for does not run."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) < START_TOLERANCE_SECONDS and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True  # it is there, and not ours to look at: never call a live process dead


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """What tells one running machine from another.

    `node` is the configured name. `hostname`, `machine` and `space` (the process-number space: a container has its own) say
    whether process numbers can be compared; `boot` says whether the machine was restarted in between.
    """

    node: str
    hostname: str
    machine: str
    boot: str
    space: str

    @classmethod
    def of_this_machine(cls, node: str) -> "HostIdentity":
        """Reads the identity from the system. Empty strings stand for what the system does not tell."""
        return cls(node, socket.gethostname(), _machine_id(), _boot_id(), _process_space())

    def same_machine(self, other: "HostIdentity") -> bool:
        """Whether process numbers of `other` mean something here. False when in doubt."""
        return bool(self.machine) and (self.machine, self.hostname, self.space) == (
            other.machine,
            other.hostname,
            other.space,
        )


def _machine_id() -> str:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text:
            return text
    if sys.platform == "darwin":
        return _platform_uuid()
    return ""


def _platform_uuid() -> str:
    completed = SubprocessRunner().run(["/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice"], timeout_seconds=10)
    for line in completed.stdout.splitlines():
        if "IOPlatformUUID" in line:
            return line.rpartition("=")[2].strip().strip('"')
    return ""


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return str(int(psutil.boot_time()))


def _process_space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def wait_until_gone(identity: ProcessIdentity, *, timeout_seconds: float, poll_seconds: float = 0.1) -> bool:
    """Waits until the process has ended; False if it still runs after `timeout_seconds`."""
    end = time.monotonic() + timeout_seconds
    while identity.is_alive():
        if time.monotonic() >= end:
            return False
        time.sleep(poll_seconds)
    return True
