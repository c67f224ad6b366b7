"""Transactions a second, by 1, 8 and 32 processes on one database, and whether one was lost.

As a program (`python -m deploy.bench.transactions ROOT SECONDS`) it is one of these processes: it
says that it is ready, waits for a line, then commits for SECONDS and prints the seconds that each
of its acknowledged commits took.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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
_FAIR_PROCESSES: Final = 8


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
            taken, found = _contend(Path(folder) / "vmstate", processes, seconds)
        acknowledged = sum(map(len, taken))
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
        if processes == _FAIR_PROCESSES and acknowledged:
            every = sorted(second for of_one in taken for second in of_one)
            report.judged("8 processes, p99 of a commit", every[len(every) * 99 // 100], "s", 1.0)
            report.judged("8 processes, unfairness (1 - Jain's)", 1 - _jain(taken), "", 0.1)
    return whole


def _jain(taken: Sequence[Sequence[float]]) -> float:
    """Jain's index of how many commits each process had: 1 if all had as many, 1/n if one had all.

    R. Jain, D. Chiu, W. Hawe, DEC-TR-301, 1984.
    """
    counts = [len(of_one) for of_one in taken]
    return sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts) or 1)


def _contend(root: Path, processes: int, seconds: float) -> tuple[list[list[float]], int]:
    """Returns how long the acknowledged commits of each process took, and how many are there."""
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
    command = [sys.executable, "-m", "deploy.bench.transactions", str(root), str(seconds)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    try:
        _start_together(running)
        outputs = [process.communicate(timeout=seconds + 120)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    found = database.head().contents.vms["vm"].failures
    return [[float(word) for word in output.split()] for output in outputs], found


def _start_together(running: Sequence["subprocess.Popen[str]"]) -> None:
    """Lets them begin once all are ready, however long that takes on a busy machine."""
    for process in running:
        if process.stdout is not None:
            process.stdout.readline()
    for process in running:
        if process.stdin is not None:
            process.stdin.write("\n")
            process.stdin.flush()


def commit_for(root: Path, seconds: float) -> list[float]:
    """Commits for so long, once it is told to begin; returns how long each commit took."""
    identity = HostIdentity.of_this_machine("bench")
    database = open_database(root, identity, SystemClock(), root.with_name("notes"))

    def add_one(contents: Contents) -> Contents:
        record = contents.vms["vm"]
        return contents.with_vm(replace(record, failures=record.failures + 1))

    print("ready", flush=True)
    sys.stdin.readline()
    start, taken = time.monotonic(), list[float]()
    while time.monotonic() < start + seconds:
        began = time.monotonic()
        database.commit_once(add_one, "benchmark", "bench")
        taken.append(time.monotonic() - began)
    return taken


if __name__ == "__main__":
    print(*commit_for(Path(sys.argv[1]), float(sys.argv[2])))
