"""The only module that starts programs: with a group of their own, watched, ended within a bound.

Every process that this program starts has its own session, so that signals of a terminal reach it
only when they are passed on.
"""

import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final, Protocol

from shared.host.process_identity import ProcessIdentity
from shared.host.signals import held_back
from shared.host.waits import waiting

log: Final = logging.getLogger(__name__)

#: A command that is told to end gets so long to do it.
END_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.02
_END_WITH_PARENT: Final = Path(__file__).with_name("end_with_parent.py")


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


class ChildProcess:
    """A process that was started, in a session of its own, with standard input closed.

    `environment` is added to the caller's; the others are as for `subprocess.Popen`.
    With `ends_with_parent` it is sent TERM when the thread that started it ends, also by a crash,
    where the system can do that (Linux). Raises `OSError` or `ValueError` if it cannot be started.
    A signal that comes while it is started takes effect afterwards, and what was started is ended.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
        # on a terminal it might wait for somebody who answers
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = subprocess.PIPE,
        stderr: int | IO[bytes] | None = subprocess.PIPE,
        ends_with_parent: bool = False,
    ) -> None:
        self.arguments = tuple(arguments)
        self._began: float | None = time.monotonic()
        started = False
        try:
            with held_back():
                self._process = subprocess.Popen(
                    _ending_with_parent(arguments) if ends_with_parent else list(arguments),
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    env=_environment(environment or {}),
                    start_new_session=True,
                )
                started = True
                self.pid = self._process.pid
                self.stdout, self.stderr = self._process.stdout, self._process.stderr
        except BaseException:
            if started:
                self.end()
                self.printed(END_SECONDS)
            raise

    def identity(self) -> ProcessIdentity | None:
        """What others know it by; None if it has ended already."""
        found = ProcessIdentity.of(self.pid)
        return found and replace(found, command=self.arguments)

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self.wait_at_most(0)

    def wait(self) -> int:
        """Waits until it ends, and returns its exit status."""
        status = self._process.wait()
        self._note(status)
        return status

    def wait_at_most(self, timeout_seconds: float) -> int | None:
        """Its exit status; None if it still runs after so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_seconds)
            return self.wait()
        return None

    def printed(self, timeout_seconds: float) -> tuple[bytes, bytes] | None:
        """What it printed, once it has ended; None if it still runs after so long."""
        try:
            printed = self._process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        self._note(self._process.returncode)
        return printed

    def send(self, number: int) -> None:
        """Sends it a signal; nothing happens if it has ended."""
        self._process.send_signal(number)

    def end(
        self,
        timeout_seconds: float = END_SECONDS,
        signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL),
        *,
        alone: bool = False,
    ) -> bool:
        """Ends it, and what it started as far as that stayed in its group; `alone`: only it.

        Sends each of `signals` in turn, until it has ended, and waits at most `timeout_seconds`
        after each. Returns whether it has ended.
        """
        for number in signals:
            if alone:
                self.send(number)
            else:
                self._send_to_group(number)
            end = time.monotonic() + timeout_seconds
            if self.wait_at_most(timeout_seconds) is None:
                continue
            while not alone and self._has_group():
                if time.monotonic() >= end:
                    break
                time.sleep(_POLL_SECONDS)
            else:
                return True
        return self.poll() is not None

    def _send_to_group(self, number: int) -> bool:
        # PermissionError: on macOS, all that is left of the group are zombies
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
            return True
        return False

    def _has_group(self) -> bool:
        return self._send_to_group(0)

    def _note(self, status: int) -> None:
        if self._began is not None:  # said once
            log_ended(self.arguments, status, time.monotonic() - self._began)
            self._began = None


class SubprocessRunner:
    """Runs real processes. One that is interrupted or late has `patience_seconds` to end itself."""

    def __init__(self, patience_seconds: float = 0) -> None:
        self._patience_seconds = patience_seconds

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """See `Runner.run`."""
        child = None
        try:
            with held_back():  # from its start until it is known here
                child = ChildProcess(arguments, environment=environment)
            with waiting(os.path.basename(arguments[0]), timeout_seconds):
                # the machine may have stood still, and not the command
                printed = child.printed(timeout_seconds) or child.printed(self._patience_seconds)
        except BaseException:  # we are interrupted: what we started does not go on without us
            if child is not None and child.printed(self._patience_seconds) is None:
                child.end()
                child.printed(END_SECONDS)
            raise
        timed_out = printed is None
        if printed is None:
            child.end()
            printed = child.printed(END_SECONDS) or (b"", b"")
        status = child.poll()
        stdout, stderr = map(as_text, printed)
        ended = -signal.SIGKILL if status is None else status
        return Completed(child.arguments, ended, stdout, stderr, timed_out)


def log_ended(arguments: Sequence[str], status: int, seconds: float) -> None:
    """Notes a command that was run, for `-v -v`. `status`: negative for a signal."""
    if log.isEnabledFor(logging.DEBUG):
        words = " ".join(
            shlex.quote(word) if word.isprintable() else repr(word) for word in arguments
        )
        how = f"status {status}" if status >= 0 else f"ended by signal {-status}"
        log.debug("%s: %s after %.2f s", words, how, seconds)


def _ending_with_parent(arguments: Sequence[str], platform: str = sys.platform) -> list[str]:
    if platform != "linux" or shutil.which(arguments[0]) is None:  # then starting it says why
        return list(arguments)
    trampoline = [sys.executable, "-I", "-S", str(_END_WITH_PARENT), str(os.getpid())]
    return [*trampoline, *arguments]


def _environment(added: Mapping[str, str] | Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """In bytes: names of VMs may have characters that the locale of cron cannot encode."""
    return {os.fsencode(name): os.fsencode(value) for name, value in os.environ.items()} | {
        os.fsencode(name): os.fsencode(value) for name, value in added.items()
    }


def as_text(data: bytes) -> str:
    """What a command printed, as `Completed` has it."""
    return data.decode("utf-8", errors="backslashreplace").replace("\r\n", "\n")
