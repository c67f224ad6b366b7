"""Transactions a second, by 1, 8 and 32 processes on one database, and whether one was lost.

As a program (`python -m deploy.bench.transactions ROOT START SECONDS`) it is one of these
processes: from START (wall clock) it commits for SECONDS and prints how many commits were
acknowledged.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from deploy.bench.report import Report
from shared.host.clock import SystemClock
from shared.host.host_identity import HostIdentity
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.states import State
from shared.state.store.create import create
from shared.state.store.opening import open_database

PROCESSES: Final = (1, 8, 32)
_START_SECONDS: Final = 0.15


def measure(report: Report, *, seconds: float) -> bool:
    """Prints the rates; returns whether all that was acknowledged is there."""
    report.heading(
        "Transactions",
        (
            "Each adds one to the same record, durably (fsync), on a local directory. Lost: "
            "acknowledged, and not in the last state."
        ),
    )
    whole = True
    alone = 0.0
    for processes in PROCESSES:
        with tempfile.TemporaryDirectory(prefix="vmbackup-bench-") as folder:
            acknowledged, found = _contend(Path(folder) / "vmstate", processes, seconds)
        rate = acknowledged / seconds
        alone = alone or rate
        lost = acknowledged - found
        whole = whole and lost == 0
        report.figure(
            f"{processes} processes",
            (
                f"{rate:.0f} a second, {rate / alone:.2f} of one process alone; lost updates: "
                f"{lost} of {acknowledged}"
            ),
        )
    return whole


def _contend(root: Path, processes: int, seconds: float) -> tuple[int, int]:
    """Returns how many commits were acknowledged, and how many the database has."""
    database = create(root, HostIdentity.of_this_machine("bench"), SystemClock())
    record = VmRecord(
        "vm",
        "vm",
        "00000000-0000-4000-8000-000000000000",
        "bench",
        "vm",
        State.NEW,
        "2026-11-22T00:00:00Z",
    )
    database.commit_once(lambda contents: contents.with_vm(record), "benchmark", "bench")
    start = time.time() + 1 + processes * _START_SECONDS
    command = [
        sys.executable,
        "-m",
        "deploy.bench.transactions",
        str(root),
        str(start),
        str(seconds),
    ]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        for _ in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=seconds + 120)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return sum(int(output) for output in outputs), database.head().contents.vms["vm"].failures


def commit_until(root: Path, start: float, seconds: float) -> int:
    """Commits from `start` on (seconds since the epoch); returns how many were acknowledged."""
    database = open_database(root, HostIdentity.of_this_machine("bench"), SystemClock())

    def add_one(contents: Contents) -> Contents:
        record = contents.vms["vm"]
        return contents.with_vm(replace(record, failures=record.failures + 1))

    time.sleep(max(0.0, start - time.time()))
    acknowledged = 0
    while time.time() < start + seconds:
        database.commit_once(add_one, "benchmark", "bench")
        acknowledged += 1
    return acknowledged


if __name__ == "__main__":
    print(commit_until(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
