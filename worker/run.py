"""run: all workers as separate processes, for a one-line crontab.

vmfind goes first. If it finds neither configuration, database nor NAS, that is said once and no
other worker is started. Then the database worker goes its own way; the others follow each other, so
that a VM which is found is also looked at and backed up in the same tick. At last `tell` tells
people, also where the others had nothing to work with. Each is a process of its own: none can take
another down. What they say passes through here (`worker.telling`), so that cron
mails an error once, and not once a worker and tick.
"""

import contextlib
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Final

import click

from shared import command_line
from shared.host import logs
from shared.host.clock import SystemClock
from shared.host.errors import ConfigurationError, ExitCode
from shared.host.printable import printable_lines
from shared.host.processes import ChildProcess
from shared.host.signals import ENDING, is_ignored
from worker import ends
from worker.pings import Pings
from worker.telling import PROGRAM, Telling, understand

if TYPE_CHECKING:
    from shared.host.configuration import Configuration

log: Final = logging.getLogger(__name__)

FIRST: Final = "vmfind"
ALONGSIDE: Final = "database"
IN_ORDER: Final = ("notifier", "backup", "verify")
#: If somebody is to be told.
LAST: Final = "tell"
#: With a wrong configuration, without the database or the NAS, the other workers would only say the
#: same again.
HOPELESS: Final = frozenset({ExitCode.USAGE, ExitCode.NO_DATABASE, ExitCode.NAS})
#: Those with which a worker has done all of its work, the best first.
MILD: Final = (ExitCode.DONE, ExitCode.SOME_DEFERRED, ExitCode.SOME_FAILED)
_STOPPED: Final = {
    **dict.fromkeys(ENDING, ExitCode.TERMINATED),
    signal.SIGINT: ExitCode.INTERRUPTED,
}


#: What a worker has said is read at most so long after its end: something that it started may have
#: its stderr still.
_LAST_WORDS_SECONDS: Final = 5.0
_LINE_BYTES: Final = 1 << 20


class Tick:
    """All workers once. `program` is the command that a worker's name is appended to.

    `hear` gets each line that a worker writes to stderr, with its name, from threads. `tells`:
    there are targets to be told.
    """

    def __init__(
        self, program: Sequence[str], hear: Callable[[str, str], None], *, tells: bool = False
    ) -> None:
        self._program, self._hear, self._tells = program, hear, tells
        self._processes: dict[str, ChildProcess] = {}
        self._listeners: dict[str, threading.Thread] = {}
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
            if codes[0] not in HOPELESS and self._stopped_by is None:
                self._start(ALONGSIDE)
                codes += [self._run(name) for name in IN_ORDER if self._stopped_by is None]
                codes.append(self._wait(ALONGSIDE))
            if self._tells and codes[0] != ExitCode.USAGE and self._stopped_by is None:
                codes.append(self._run(LAST))
        return (
            worst(codes) if self._stopped_by is None else _STOPPED[signal.Signals(self._stopped_by)]
        )

    def _run(self, name: str) -> ExitCode:
        self._start(name)
        return self._wait(name)

    @contextlib.contextmanager
    def _passing_signals_on(self) -> Iterator[None]:
        previous = {
            number: signal.signal(number, self._stop)
            for number in _STOPPED
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
        """Starts a worker; a terminal does not interrupt it a second time while it cleans up."""
        process = ChildProcess([*self._program, name], stdout=None, stderr=subprocess.PIPE)
        self._processes[name] = process
        listener = threading.Thread(target=self._listen, args=(name, process), daemon=True)
        self._listeners[name] = listener
        listener.start()
        if self._stopped_by is not None:  # between the decision to start it and here
            process.send(self._stopped_by)

    def _listen(self, name: str, process: ChildProcess) -> None:
        if process.stderr is None:
            return
        with process.stderr as stderr:
            while line := stderr.readline(_LINE_BYTES):
                self._hear(name, line.decode(errors="backslashreplace").rstrip("\n"))

    def _wait(self, name: str) -> ExitCode:
        """Waits for a worker as long as it takes: each bounds its own work."""
        code = self._processes[name].wait()
        self._listeners[name].join(_LAST_WORDS_SECONDS)
        if code < 0 and self._stopped_by is None:
            what = "%s was killed by signal %d; the next tick carries on"
            log.error(what, name, -code, extra={"worker": name})
        elif code:
            log.info("%s ended with exit code %d", name, code)
        if code in MILD:
            self.well.add(name)
        return ExitCode(code) if code in set(ExitCode) else ExitCode.FAILURE


def worst(codes: Sequence[ExitCode]) -> ExitCode:
    """The exit code to report for several.

    A failure beats failed VMs, those beat deferred ones, those beat success.
    """
    return max(
        codes,
        key=lambda code: MILD.index(code) if code in MILD else len(MILD),
        default=ExitCode.DONE,
    )


@command_line.documented(
    example="*/10 * * * * vmbackup-worker run      (in the crontab of the user who owns the VMs)",
    codes=tuple(ExitCode),
)
@command_line.pass_invocation
def command(invocation: command_line.Invocation) -> ExitCode:
    """Run all workers as separate processes, for a one-line crontab.

    The exit code is the most telling one of theirs: a failure before failed VMs before deferred VMs
    before success. It says an error when it begins, once a day, and, if it is not of one VM, when
    it is over; all of it on a terminal and with -v, and in run.log in host.state_directory.
    """
    # -P: nothing is imported from the directory in which cron starts us, a home directory;
    # PYTHONPATH counts as the administrator set it
    options = ["-v"] * invocation.verbosity + ["--log-format", "json"]
    options += ["--config", invocation.config] if invocation.config else []
    configuration = _configuration(invocation)
    telling = _telling(invocation, configuration)
    logging.getLogger().handlers[:] = [_ToTelling(telling)]
    before = _marks(configuration)
    pings = Pings.of(configuration)

    def hear(name: str, line: str) -> None:
        telling.hear(name, line)
        pings.hear(understand(name, line).line)

    tells = configuration is not None and bool(configuration.notify)
    tick = Tick([sys.executable, "-P", "-m", "worker.cli", *options], hear, tells=tells)
    pings.begin()
    code = tick.run()
    pings.end(code)
    after = _marks(configuration)
    if code not in _STOPPED.values():
        telling.conclude({name for name in tick.well if before.get(name) != after.get(name)})
        if configuration is not None:  # so it is not wrong any more
            _telling(invocation, None).conclude(tick.well)
    return code


class _ToTelling(logging.Handler):
    """Has what this process itself says pass where that of the workers does."""

    def __init__(self, telling: Telling) -> None:
        super().__init__()
        self._telling = telling
        self.setFormatter(logs.JsonFormatter(PROGRAM))

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        self._telling.hear("run", self.format(record))


def _configuration(invocation: command_line.Invocation) -> "Configuration | None":
    """None if it is wrong, of which `vmfind` tells."""
    try:
        return invocation.configuration()
    except ConfigurationError:
        return None


def _telling(invocation: command_line.Invocation, configuration: "Configuration | None") -> Telling:
    """Without a configuration, what was told is noted where hosts note things by default."""
    from shared.host.configuration.model import default_state_directory

    directory = None
    if configuration is None:
        with contextlib.suppress(ValueError):  # this user has no home
            directory = default_state_directory() / "told-without-configuration"
    else:
        host, nas = configuration.host, configuration.nas
        directory = ends.told_directory(host.state_directory, nas.mountpoint)
    return Telling(
        directory,
        SystemClock(),
        lambda line: click.echo(printable_lines(line), err=True),
        everything=invocation.verbosity > 0 or sys.stderr.isatty(),
        as_json=invocation.log_format == "json",
    )


def _marks(configuration: "Configuration | None") -> Mapping[str, object]:
    if configuration is None:
        return {}
    return ends.marks(configuration.host.state_directory, configuration.nas.mountpoint)


if __name__ == "__main__":
    from worker.cli import program

    program.main(["run", *sys.argv[1:]])
