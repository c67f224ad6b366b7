"""One tick: which workers follow each other, what they say, what a signal does to them."""

import contextlib
import functools
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import IO, Final, Protocol

from shared.host.errors import ExitCode
from shared.host.signals import ENDING, held_back, is_ignored

log: Final = logging.getLogger(__name__)

FIRST: Final = "vmfind"
ALONGSIDE: Final = "database"
IN_ORDER: Final = ("notifier", "backup", "verify")
#: If somebody is to be told.
LAST: Final = "tell"
ALL_BUT_LAST: Final = (FIRST, ALONGSIDE, *IN_ORDER)
#: What each that is waited for does, for people.
DOES: Final = {
    FIRST: "looks which VMs there are",
    "notifier": "looks which VMs were used",
    "backup": "backs up what waits",
    "verify": "reads old copies again",
    LAST: "tells people",
}
#: With a wrong configuration, without the database or the NAS, the other workers would only say the
#: same again.
HOPELESS: Final = frozenset({ExitCode.USAGE, ExitCode.NO_DATABASE, ExitCode.NAS})
#: Those with which a worker has done all of its work, the best first.
MILD: Final = (ExitCode.DONE, ExitCode.SOME_DEFERRED, ExitCode.SOME_FAILED)
STOPPED: Final = {
    **dict.fromkeys(ENDING, ExitCode.TERMINATED),
    signal.SIGINT: ExitCode.INTERRUPTED,
}


#: What a worker has said is read at most so long after its end: something that it started may have
#: its stderr still.
_LAST_WORDS_SECONDS: Final = 5.0
#: How long it may go unnoticed that one has ended whose stderr something else has still.
_LOOK_SECONDS: Final = 0.5
#: And one that has closed its stderr.
_POLL_SECONDS: Final = 0.05
_LINE_BYTES: Final = 1 << 20
_PART_BYTES: Final = 1 << 16


class WorkerProcess(Protocol):
    """A worker's process."""

    @property
    def stderr(self) -> IO[bytes] | None:
        """What it writes to standard error."""

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""

    def send(self, number: int) -> None:
        """Sends it a signal; nothing happens if it has ended."""


#: Starts the worker of a name. It is given the pipes of those that were started before.
Start = Callable[[str, Sequence[IO[bytes]]], WorkerProcess]


class Tick:
    """All workers once. `start` starts one.

    `hear` gets each line that a worker writes to stderr, with its name; what something else has of
    its stderr is waited for `last_words_seconds` after its end. `tells`: there are targets to be
    told. No thread is started: this process is forked again and again.
    """

    def __init__(
        self,
        start: Start,
        hear: Callable[[str, str], None],
        *,
        tells: bool = False,
        last_words_seconds: float = _LAST_WORDS_SECONDS,
    ) -> None:
        self._last_words_seconds = last_words_seconds
        self._start_process, self._hear, self._tells = start, hear, tells
        self._processes: dict[str, WorkerProcess] = {}
        self._lines: dict[str, Lines] = {}
        self._stopped_by: int | None = None
        #: Those that ended without a failure of their own.
        self.well: set[str] = set()

    def run(self) -> ExitCode:
        """Returns the most telling of their exit codes.

        SIGTERM, SIGHUP and SIGINT are passed on to all of them once, so that an export is cancelled
        cleanly; then no further one is started.
        """
        with self._passing_signals_on():
            codes = [self._run(FIRST)]
            if codes[0] not in HOPELESS:
                self._start(ALONGSIDE)
                codes += [self._run(name) for name in IN_ORDER]
                codes.append(self._wait(ALONGSIDE))
            if self._tells and codes[0] != ExitCode.USAGE:
                codes.append(self._run(LAST))
        return (
            worst(codes) if self._stopped_by is None else STOPPED[signal.Signals(self._stopped_by)]
        )

    def _run(self, name: str) -> ExitCode:
        self._start(name)
        return self._wait(name)

    @contextlib.contextmanager
    def _passing_signals_on(self) -> Iterator[None]:
        previous = {
            number: signal.signal(number, self._stop)
            for number in STOPPED
            if not is_ignored(number)
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self._stopped_by is None:
            self._stopped_by = number
            for process in list(self._processes.values()):
                process.send(number)

    def _start(self, name: str) -> None:
        """Starts a worker, unless all were told to end. A signal waits until it is known here."""
        pipes = [lines.pipe for lines in self._lines.values() if not lines.ended]
        with held_back():
            if self._stopped_by is None:
                process = self._start_process(name, pipes)
                self._processes[name] = process
                if process.stderr is not None:
                    self._lines[name] = Lines(process.stderr, functools.partial(self._hear, name))

    def _wait(self, name: str) -> ExitCode:
        """Waits for a worker as long as it takes: each bounds its own work."""
        if name not in self._processes:  # all were told to end before it began
            return ExitCode.DONE
        process, lines = self._processes[name], self._lines.get(name)
        while (code := process.poll()) is None:
            self._listen(_LOOK_SECONDS if lines and not lines.ended else _POLL_SECONDS)
        end = time.monotonic() + self._last_words_seconds
        while lines and not lines.ended and (left := end - time.monotonic()) > 0:
            self._listen(left)
        if lines:
            lines.close()
        if code < 0 and self._stopped_by is None:
            what = "%s was killed by signal %d; the next tick carries on"
            log.error(what, name, -code, extra={"worker": name})
        elif code:
            log.info("%s ended with exit code %d", name, code)
        if code in MILD:
            self.well.add(name)
        return ExitCode(code) if code in set(ExitCode) else ExitCode.FAILURE

    def _listen(self, seconds: float) -> None:
        """Hears what any worker says, as soon as one says something or has ended."""
        pipes = {lines.pipe: lines for lines in self._lines.values() if not lines.ended}
        if not pipes:
            time.sleep(seconds)
            return
        for pipe in select.select(list(pipes), [], [], seconds)[0]:
            pipes[pipe].read()


class Lines:
    """The lines that come out of a pipe; `hear` gets each, however long what it is part of."""

    def __init__(self, pipe: IO[bytes], hear: Callable[[str], None]) -> None:
        self.pipe, self._hear = pipe, hear
        self._begun = b""
        self.ended = False

    def read(self) -> None:
        """Takes what is there. Waits only if there is nothing."""
        got = os.read(self.pipe.fileno(), _PART_BYTES)
        *whole, self._begun = (self._begun + got).split(b"\n")
        if len(self._begun) > _LINE_BYTES:
            whole, self._begun = [*whole, self._begun], b""
        for line in whole:
            self._say(line)
        if not got:
            self.close()

    def close(self) -> None:
        """Nothing more is heard; what was begun is a line, too."""
        if not self.ended:
            self.ended = True
            if self._begun:
                self._say(self._begun)
            self.pipe.close()

    def _say(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody reads what we print: the workers go on
            self._hear(line.decode(errors="backslashreplace"))


def worst(codes: Sequence[ExitCode]) -> ExitCode:
    """The exit code to report for several.

    A failure beats failed VMs, those beat deferred ones, those beat success.
    """
    return max(
        codes,
        key=lambda code: MILD.index(code) if code in MILD else len(MILD),
        default=ExitCode.DONE,
    )
