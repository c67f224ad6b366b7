"""Threads that stand back, and nothing else that does."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from shared.host.process_identity import ProcessIdentity
from worker.backup.priority import ExportPriority, find_writer, in_background

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only there threads have priorities"
)


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_work_in_the_background_stands_back_and_the_caller_does_not() -> None:
    before = nice()
    assert in_background(
        15, lambda _stop: (nice(), psutil.Process(threading.get_native_id()).ionice().value)
    ) == (15, 7)
    assert in_background(0, lambda _stop: nice()) == before
    assert nice() == before


def test_what_the_work_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        in_background(10, lambda _stop: 1 / 0)


def test_work_stops_when_its_caller_is_interrupted() -> None:
    ended: list[float] = []

    def work(stop: "object") -> None:
        while not stop():  # type: ignore[operator]
            time.sleep(0.01)
        ended.append(time.monotonic())

    before = signal.signal(
        signal.SIGUSR1, signal.default_int_handler
    )  # SIGINT itself may be ignored where tests run in the background
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            in_background(10, work)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended


def test_only_the_engines_threads_that_start_no_process_stand_back(tmp_path: Path) -> None:
    done = threading.Event()
    threads = [
        threading.Thread(target=done.wait, name=name)
        for name in ("engine", "engine-compress-0", "other")
    ]
    for thread in threads:
        thread.start()
    before = nice()
    try:
        ExportPriority(tmp_path / "x.ova", 12, ProcessIdentity.of(os.getpid())).lower()
        assert [os.getpriority(os.PRIO_PROCESS, thread.native_id or 0) for thread in threads] == [
            before,
            12,
            before,
        ]
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_no_writer_is_found_where_there_is_none(tmp_path: Path) -> None:
    assert find_writer(tmp_path / "gone.ova", 0) is None
    (tmp_path / "x.ova").touch()
    with open(tmp_path / "x.ova", "rb"):  # open, but not by VBoxSVC
        assert find_writer(tmp_path / "x.ova", 0) is None
    ExportPriority(tmp_path / "x.ova", 10, ProcessIdentity(1, 0)).lower()
    ExportPriority(tmp_path / "x.ova", 10, None).lower()
