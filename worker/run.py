"""run: all workers as separate processes, for a one-line crontab.

vmfind goes first. If it finds neither configuration, database nor NAS, that is said once and no
other worker is started. Then the database worker goes its own way; the others follow each other, so
that a VM which is found is also looked at and backed up in the same tick. At last `tell` tells
people, also where the others had nothing to work with. Each is a process of its own: none can take
another down. Where that is safe they are forked off this one, which has imported what they need.
What they say passes through here (`worker.cron_mail`), so that cron
mails an error once, and not once a worker and tick.
"""

import contextlib
import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Final

import click

from shared import command_line
from shared.host import logs
from shared.host.clock import SystemClock
from shared.host.errors import ConfigurationError, ExitCode
from shared.host.forked_process import ForkedProcess, can_fork
from shared.host.printable import printable_lines
from shared.host.processes import ChildProcess
from shared.state.sessions import worker_ends
from worker.cron_mail import PROGRAM, Telling, understand
from worker.pings import LOOKING, WITHIN_RUN, Pings
from worker.progress import Display, display_here, passed_on
from worker.tick import ALL_BUT_LAST, ALONGSIDE, DOES, LAST, STOPPED, Start, Tick, WorkerProcess

if TYPE_CHECKING:
    from shared.host.configuration import Configuration

log: Final = logging.getLogger(__name__)

#: What each worker imports late, when it gets to it, and never goes without.
_USED_BY_EACH: Final = ("encodings.ascii", "filelock", "worker.clone_sweep")


def starter(options: Sequence[str], names: Sequence[str], pings: Pings) -> Start:
    """How workers are started with these options: forked off this process, where that is safe.

    Then what `names` need is imported and made here, once. One that cannot be imported fails as
    itself.
    """
    program = [sys.executable, "-P", "-m", "worker.cli", *options]

    def spawn(name: str, _others: Sequence[IO[bytes]]) -> WorkerProcess:
        environment = {WITHIN_RUN: "1"}
        return ChildProcess(
            [*program, name], environment=environment, stdout=None, stderr=subprocess.PIPE
        )

    if not can_fork():
        return spawn
    if not sys.flags.safe_path:  # what -P says to Python
        del sys.path[0]
    for module in (*(f"worker.{name}" for name in names), *_USED_BY_EACH):
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    with contextlib.suppress(Exception):
        _read_by_each()

    def fork(name: str, others: Sequence[IO[bytes]]) -> WorkerProcess:
        from worker.cli import program

        def work() -> None:
            os.environ[WITHIN_RUN] = "1"
            program.main([*options, name])

        if not can_fork():
            return spawn(name, others)
        return ForkedProcess(work, name, [*others, *pings.pipes()])

    return fork


def _read_by_each() -> None:
    """Makes once what each worker would make to read the database: a fork has it at once."""
    from shared.state.store import snapshot

    snapshot.prepare()


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
    display = _display(invocation)
    telling = _telling(invocation, configuration, display)
    logging.getLogger().handlers[:] = [_ToTelling(telling)]
    before = _marks(configuration)
    pings = Pings.of(configuration)

    def hear(name: str, line: str) -> None:
        if passed_on(line, display):
            return
        telling.hear(name, line)
        pings.hear(understand(name, line).line)

    tells = configuration is not None and bool(configuration.notify)
    names = [*ALL_BUT_LAST, LAST] if tells else ALL_BUT_LAST
    start = _announced(starter(options, names, pings), display)
    tick = Tick(start, hear, tells=tells)
    pings.begin()
    try:
        code = tick.run()
    finally:
        if display is not None:
            display.close()
    after = _marks(configuration)
    ended = {name for name in names if before.get(name) != after.get(name)}
    if code in STOPPED.values():
        log.log(logs.NOTICE, "interrupted: all workers have ended, and the next tick carries on")
    pings.end(code, looked=ended.issuperset(LOOKING))
    if code not in STOPPED.values():
        telling.conclude(tick.well & ended)
        if configuration is not None:  # so it is not wrong any more
            _telling(invocation, None).conclude(tick.well)
    return code


def _display(invocation: command_line.Invocation) -> Display | None:
    """Where this run is watched; the workers are told that it is. None: it is not."""
    display = display_here(as_json=invocation.log_format == "json")
    if display is not None:
        os.environ[logs.AT_TERMINAL] = "1"
    return display


def _announced(start: Start, display: Display | None) -> Start:
    """Starts workers as `start` does; whoever watches sees which one works now."""

    def announced(name: str, others: Sequence[IO[bytes]]) -> WorkerProcess:
        stage = f"({name})"  # brackets: a VM may be called so, too
        if display is not None and name != ALONGSIDE:
            if last:
                display.ended(last.pop(), "")
            display.show({"vm": stage, "phase": DOES[name]})
            last.append(stage)
        return start(name, others)

    last: list[str] = []
    return announced


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


def _telling(
    invocation: command_line.Invocation,
    configuration: "Configuration | None",
    display: Display | None = None,
) -> Telling:
    """Without a configuration, what was told is noted where hosts note things by default.

    By its file: another one, of another NAS, has its own.
    """
    from shared.host.configuration.model import default_state_directory

    directory = None
    if configuration is None:
        with contextlib.suppress(ValueError):  # this user has no home
            directory = default_state_directory() / f"told-without-{_file(invocation)}"
    else:
        host, nas = configuration.host, configuration.nas
        directory = worker_ends.told_directory(host.state_directory, nas.mountpoint)
    return Telling(
        directory,
        SystemClock(),
        display.say if display else lambda line: click.echo(printable_lines(line), err=True),
        everything=invocation.verbosity > 0 or sys.stderr.isatty(),
        as_json=invocation.log_format == "json",
    )


def _file(invocation: command_line.Invocation) -> str:
    """Which file the configuration is in, as a name."""
    from shared.host.configuration.loading import find

    path = ""
    with contextlib.suppress(ConfigurationError, OSError):  # the latter: its directory is gone
        path = os.path.abspath(find(invocation.config) or "")
    return sha256(os.fsencode(path)).hexdigest()[:16]


def _marks(configuration: "Configuration | None") -> Mapping[str, object]:
    if configuration is None:
        return {}
    return worker_ends.marks(configuration.host.state_directory, configuration.nas.mountpoint)


if __name__ == "__main__":
    from worker.cli import program

    program.main(["run", *sys.argv[1:]])
