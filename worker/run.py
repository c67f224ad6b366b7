"""run: all workers as separate processes, for a one-line crontab.

The database worker goes its own way; the others follow each other, so that a VM which is found is also looked at and backed up in the
same tick. Each is a process of its own: none can take another down.
"""

import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final

from shared import cli
from shared.errors import ExitCode

log: Final = logging.getLogger(__name__)

IN_ORDER: Final = ("vmfind", "notifier", "backup")


def run(options: Sequence[str]) -> int:
    """Runs all workers with these global options; answers the most telling of their exit codes.

    SIGTERM and SIGINT are passed on, so that an export is cancelled cleanly.
    """
    recovery = _start("database", options)
    codes = [_wait(_start(name, options), name) for name in IN_ORDER]
    return worst([*codes, _wait(recovery, "database")])


def worst(codes: Sequence[int]) -> int:
    """The exit code to report for several: a failure beats failed VMs, those beat deferred ones, those beat success."""
    mild = (ExitCode.DONE, ExitCode.SOME_DEFERRED, ExitCode.SOME_FAILED)
    return max(codes, key=lambda code: mild.index(ExitCode(code)) if code in mild else len(mild), default=0)


def _start(name: str, options: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "worker.cli", *options, name], stdin=subprocess.DEVNULL)


def _wait(process: "subprocess.Popen[bytes]", name: str) -> int:
    """Waits for a worker as long as it takes: each bounds its own work."""

    def forward(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if code:
        log.info("%s ended with exit code %d", name, code)
    return code if code >= 0 else 128 - code


@cli.documented(example="*/10 * * * * vmbackup-worker run      (in the crontab of the user who owns the VMs)", codes=tuple(ExitCode))
@cli.pass_invocation
def command(invocation: cli.Invocation) -> ExitCode:
    """Run all workers as separate processes, for a one-line crontab.

    The exit code is the most telling one of theirs: a failure before failed VMs before deferred VMs before success.
    """
    options = ["-v"] * invocation.verbosity + ["--log-format", invocation.log_format]
    options += ["--config", invocation.config] if invocation.config else []
    return ExitCode(run(options))


if __name__ == "__main__":
    from worker.cli import program

    program.main(["run", *sys.argv[1:]])
