"""How long a program takes to answer `--help`."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.bench.report import Report, spread

#: What a worker may take to start: cron starts several every few minutes.
AIM_SECONDS: Final = 0.25


def measure(report: Report, *, rounds: int) -> None:
    """Prints the times, beside those of a Python that does nothing."""
    report.heading(
        "Start-up",
        (
            "Wall time: median (least-most). The aim is for the least one, because other programs "
            "on the machine only add to it."
        ),
    )
    python = _times([sys.executable, "-c", "pass"], rounds)
    report.figure("python -c pass", spread(python))
    for words in (
        ["vmbackup-worker", "--help"],
        ["vmbackup-worker", "backup", "--help"],
        ["vmbackup-admin", "--help"],
        ["vmbackup-lock", "--help"],
    ):
        seconds = _times([str(Path(sys.executable).parent / words[0]), *words[1:]], rounds)
        report.figure(" ".join(words), spread(seconds))
        if words == ["vmbackup-worker", "--help"]:
            report.judged(" ".join(words), min(seconds), "s", AIM_SECONDS)


def _times(command: Sequence[str], rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        began = time.monotonic()
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        found.append(time.monotonic() - began)
    return found
