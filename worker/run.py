"""run: all workers as separate processes, for a one-line crontab.

vmfind goes first. If it finds neither configuration, database nor NAS, that is said once and no
other worker is started. Then the database worker goes its own way; the others follow each other, so
that a VM which is found is also looked at and backed up in the same tick. Each is a process of its
own: none can take another down.
"""

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final

from shared import command_line
from shared.host.errors import ExitCode
from shared.host.processes import ChildProcess
from shared.host.signals import ENDING, is_ignored

log: Final = logging.getLogger(__name__)

FIRST: Final = "vmfind"
ALONGSIDE: Final = "database"
IN_ORDER: Final = ("notifier", "backup", "verify")
#: With a wrong configuration, without the database or the NAS, the other workers would only say the
#: same again.
HOPELESS: Final = frozenset({ExitCode.USAGE, ExitCode.NO_DATABASE, ExitCode.NAS})
_STOPPED: Final = {
    **dict.fromkeys(ENDING, ExitCode.TERMINATED),
    signal.SIGINT: ExitCode.INTERRUPTED,
}


class Tick:
    """All workers once. `program` is the command that a worker's name is appended to."""

    def __init__(self, program: Sequence[str]) -> None:
        self._program = program
        self._processes: dict[str, ChildProcess] = {}
        self._stopped_by: int | None = None

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
        process = ChildProcess([*self._program, name], stdout=None, stderr=None)
        self._processes[name] = process
        if self._stopped_by is not None:  # between the decision to start it and here
            process.send(self._stopped_by)

    def _wait(self, name: str) -> ExitCode:
        """Waits for a worker as long as it takes: each bounds its own work."""
        code = self._processes[name].wait()
        if code < 0 and self._stopped_by is None:
            log.error("%s was killed by signal %d; the next tick carries on", name, -code)
        elif code:
            log.info("%s ended with exit code %d", name, code)
        return ExitCode(code) if code in set(ExitCode) else ExitCode.FAILURE


def worst(codes: Sequence[ExitCode]) -> ExitCode:
    """The exit code to report for several.

    A failure beats failed VMs, those beat deferred ones, those beat success.
    """
    mild = (ExitCode.DONE, ExitCode.SOME_DEFERRED, ExitCode.SOME_FAILED)
    return max(
        codes,
        key=lambda code: mild.index(code) if code in mild else len(mild),
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
    before success.
    """
    # -P: nothing is imported from the directory in which cron starts us, a home directory;
    # PYTHONPATH counts as the administrator set it
    options = ["-v"] * invocation.verbosity + ["--log-format", invocation.log_format]
    options += ["--config", invocation.config] if invocation.config else []
    return Tick([sys.executable, "-P", "-m", "worker.cli", *options]).run()


if __name__ == "__main__":
    from worker.cli import program

    program.main(["run", *sys.argv[1:]])
