"""`vmbackup-worker run`: what it starts, what it answers, and what a signal does to it."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from shared.host.errors import ExitCode
from worker.run import Tick, worst

#: A worker that notes that it was started, waits while its name says so, and notes how it ended.
WORKER = """
import os, pathlib, signal, sys, time
folder, codes, name = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def end(number, frame):
    with open(folder / "log", "a") as log: print(name, "got", number, file=log)
    sys.exit(128 + number)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, end)
with open(folder / "log", "a") as log: print(name, file=log)
code = dict(pair.split("=") for pair in codes.split(",") if pair).get(name, "0")
if code == "wait": time.sleep(30)
if code == "killed": os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(code))
"""


def tick(folder: Path, codes: str = "") -> Tick:
    return Tick([sys.executable, "-I", "-S", "-c", WORKER, str(folder), codes])


def log(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


def test_all_workers_run_and_those_that_build_on_each_other_in_order(tmp_path: Path) -> None:
    assert tick(tmp_path).run() == ExitCode.DONE
    assert sorted(log(tmp_path)) == ["backup", "database", "notifier", "verify", "vmfind"]
    assert [line for line in log(tmp_path) if line != "database"] == [
        "vmfind",
        "notifier",
        "backup",
        "verify",
    ]


def test_one_that_fails_does_not_keep_the_others_from_running(tmp_path: Path) -> None:
    assert tick(tmp_path, "vmfind=14,backup=4").run() == ExitCode.VBOXMANAGE
    assert len(log(tmp_path)) == 5


def test_a_worker_that_was_killed_is_a_failure_and_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert tick(tmp_path, "notifier=killed").run() == ExitCode.FAILURE
    assert "notifier was killed by signal 9" in caplog.text


@pytest.mark.usefixtures("hang_up_heeded")
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, ExitCode.TERMINATED),
        (signal.SIGHUP, ExitCode.TERMINATED),
        (signal.SIGINT, ExitCode.INTERRUPTED),
    ],
)
def test_a_signal_reaches_every_worker_once_and_no_further_one_is_started(
    tmp_path: Path, number: signal.Signals, code: ExitCode
) -> None:
    def interrupt() -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end and not {"notifier", "database"} <= set(
            log(tmp_path) if (tmp_path / "log").exists() else []
        ):
            time.sleep(0.02)
        for _ in range(3):
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert tick(tmp_path, "notifier=wait,database=wait").run() == code
    thread.join()
    assert sorted(log(tmp_path)) == [
        "database",
        f"database got {int(number)}",
        "notifier",
        f"notifier got {int(number)}",
        "vmfind",
    ]


@pytest.mark.parametrize("code", [ExitCode.USAGE, ExitCode.NO_DATABASE, ExitCode.NAS])
def test_without_configuration_database_or_nas_that_is_said_once(
    tmp_path: Path, code: ExitCode
) -> None:
    assert tick(tmp_path, f"vmfind={int(code)}").run() == code
    assert log(tmp_path) == ["vmfind"]


def test_the_most_telling_code_is_reported() -> None:
    assert (
        worst([ExitCode.SOME_DEFERRED, ExitCode.SOME_FAILED, ExitCode.DONE]) == ExitCode.SOME_FAILED
    )
    assert worst([ExitCode.SOME_FAILED, ExitCode.NAS]) == ExitCode.NAS
    assert worst([]) == ExitCode.DONE
