"""Pings: a web address hears that a run of this host began, and how it ended (healthchecks).

`run` sends them for all workers. Where a schedule starts each worker by itself, the `database`
worker does, and the other workers' last ends count in its own.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import IO, TYPE_CHECKING, Final, Self

from shared.host.clock import SystemClock, age
from shared.host.errors import ConfigurationError, ExitCode, VmBackupError
from shared.host.forked_process import ForkedProcess, can_fork
from shared.host.printable import printable_lines
from shared.state.sessions.worker_ends import read_ends

if TYPE_CHECKING:
    from shared.command_line import Invocation
    from shared.host.configuration import Configuration

log: Final = logging.getLogger(__name__)

#: So many of the last lines are sent with a failure, each no longer than that.
_LINES: Final = 30
_LENGTH: Final = 400
#: With which a run went well: VMs that run are no fault.
_WELL: Final = frozenset({ExitCode.DONE, ExitCode.SOME_DEFERRED})
_JOIN_SECONDS: Final = 10.0
#: Without these nobody looks at the VMs. They take seconds, so one that is at it for long hangs.
LOOKING: Final = ("vmfind", "notifier")
#: One that a schedule starts singly hangs if it has not ended for so many of the intervals of the
#: worker that pings, and for so long at least.
_INTERVALS: Final = 3
_LONG_SECONDS: Final = 3600.0
_POLL_SECONDS: Final = 0.05
#: Set for the workers that `run` starts, because `run` itself pings.
WITHIN_RUN: Final = "VMBACKUP_WITHIN_RUN"


class Pings:
    """The pings of one run. Without a URL nothing is sent.

    Each takes 10 s at most; the first one does not hold the run up. What goes wrong is a warning.
    """

    def __init__(self, url: str, node: str = "") -> None:
        self._url, self._node = url, node
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._starting: ForkedProcess | threading.Thread | None = None

    @classmethod
    def of(cls, configuration: "Configuration | None") -> Self:
        """Those that the configuration asks for. One that cannot be sent is said."""
        if configuration is None or not configuration.ping.url.get_secret_value():
            return cls("")
        from shared.host.secret_values import revealed

        try:
            url = revealed(configuration.ping.url, "ping.url")
        except ConfigurationError as error:
            hint = f" ({error.hint})" if error.hint else ""
            log.error("nobody hears of this run: %s%s", error.message, hint)  # noqa: TRY400
            return cls("")
        return cls(url, configuration.host.node)

    def hear(self, line: str) -> None:
        """Remembers a line of a worker, of which the last ones are sent with a failure."""
        self._lines.append(printable_lines(line)[:_LENGTH])

    def begin(self) -> None:
        """Says that a run begins. Does not wait."""
        if self._url:
            if can_fork():  # a thread would forbid that workers are forked
                self._starting = ForkedProcess(lambda: sys.stderr.write(self._ask("start")), "ping")
            else:
                self._starting = threading.Thread(target=self._ping, args=("start",), daemon=True)
                self._starting.start()

    def pipes(self) -> Sequence[IO[bytes]]:
        """What a fork of this process closes."""
        return [self._starting.stderr] if isinstance(self._starting, ForkedProcess) else []

    def end(self, code: ExitCode, *, looked: bool = True) -> None:
        """Says how the run ended, after that it began. A run that was stopped says nothing.

        Nor does one that went well only because those of `LOOKING` are still at work since an
        earlier run (not `looked`): they may hang, and that address is to notice the silence.
        """
        if self._starting is None:
            return
        if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
            if isinstance(self._starting, ForkedProcess):
                self._starting.send(signal.SIGKILL)  # this program waits for all its forks
            return
        self._await_start()
        if code in _WELL:
            if looked:
                self._ping("")
            return
        last = f"{self._node}: the run ended with exit code {code.value}: {code.meaning}"
        self._ping("fail", "\n".join([*self._lines, last]))

    def _await_start(self) -> None:
        if isinstance(self._starting, threading.Thread):
            self._starting.join(_JOIN_SECONDS)
        elif self._starting is not None:
            end = time.monotonic() + _JOIN_SECONDS
            while self._starting.poll() is None and time.monotonic() < end:
                time.sleep(_POLL_SECONDS)
            if self._starting.poll() is None:
                self._starting.send(signal.SIGKILL)
            with self._starting.stderr as pipe:
                _warn(pipe.read().decode(errors="backslashreplace"))

    def _ping(self, what: str, body: str = "") -> None:
        _warn(self._ask(what, body))

    def _ask(self, what: str, body: str = "") -> str:
        """Answers what went wrong."""
        from shared.notices.sending import ping

        try:
            return ping(self._url, what, body)
        except (ConfigurationError, OSError) as error:
            return error.message if isinstance(error, ConfigurationError) else str(error)


def _warn(problem: str) -> None:
    if problem:
        log.warning("the ping was not heard: %s", problem)


@contextlib.contextmanager
def alone(invocation: "Invocation", worker: str) -> Iterator[Callable[[ExitCode], None]]:
    """Pings while a worker works that no `run` has started; yields what takes its exit code.

    A failure of another worker that has not ended well since is one of this host, too. Nothing is
    sent without a configuration, or if the worker is stopped by a signal.
    """
    configuration = _configuration(invocation)
    pings, codes = Pings.of(configuration), list[ExitCode]()
    before = _own_end(configuration, worker)
    pings.begin()
    try:
        yield codes.append
    except VmBackupError as error:
        pings.hear(error.message)
        codes.append(error.exit_code)
        raise
    except Exception:
        codes.append(ExitCode.FAILURE)
        raise
    finally:
        if codes and configuration is not None:
            pings.end(_worst(configuration, worker, codes, pings, before))
        else:
            pings.end(ExitCode.TERMINATED)


def _configuration(invocation: "Invocation") -> "Configuration | None":
    if os.environ.get(WITHIN_RUN):
        return None
    try:
        return invocation.configuration()
    except ConfigurationError:
        return None


def _own_end(configuration: "Configuration | None", worker: str) -> str:
    """When this worker last ended; empty if it never did."""
    if configuration is None:
        return ""
    ends = read_ends(configuration.host.state_directory, configuration.nas.mountpoint)
    return ends[worker].when if worker in ends else ""


def _worst(
    configuration: "Configuration", worker: str, codes: list[ExitCode], pings: Pings, before: str
) -> ExitCode:
    from worker.tick import worst

    now = SystemClock().now()
    patience = max(_LONG_SECONDS, _INTERVALS * _seconds_since(before, now))
    ends = read_ends(configuration.host.state_directory, configuration.nas.mountpoint)
    for name, end in sorted(ends.items()):
        if name == worker:
            continue
        if name in LOOKING and _seconds_since(end.when, now) > patience:
            pings.hear(f"{name} has not ended since {end.when}: does it hang?")
            codes.append(ExitCode.FAILURE)
        code = ExitCode(end.code) if end.code in set(ExitCode) else ExitCode.FAILURE
        if code not in _WELL:
            pings.hear(f"{name} ended with exit code {end.code} at {end.when}")
        codes.append(code)
    return worst(codes)


def _seconds_since(when: str, now: datetime) -> float:
    """How long ago a worker ended; 0 if that time says nothing."""
    passed = age(now, when)
    return 0.0 if passed is None else passed.total_seconds()
