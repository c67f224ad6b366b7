"""Commands that only ask: a late one is asked once more, and nothing is left running."""

import os
import signal
import sys
from pathlib import Path

import pytest

from shared.host.hedging import HedgingRunner

#: Notes its number; the first so many of them hang.
ASKED = """
import os, pathlib, sys, time
folder, hanging = pathlib.Path(sys.argv[1]), int(sys.argv[2])
number = len(list(folder.iterdir()))
(folder / str(os.getpid())).touch()
print("x" * 200_000, flush=True)
if number < hanging: time.sleep(60)
print(number); print("said", file=sys.stderr); sys.exit(number)
"""


def asked(folder: Path, hanging: int) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", ASKED, str(folder), str(hanging)]


def still_running(folder: Path) -> list[int]:
    found = []
    for path in folder.iterdir():
        try:
            os.kill(int(path.name), 0)
        except ProcessLookupError:
            continue
        found.append(int(path.name))
    return found


def test_one_that_answers_in_time_is_asked_once(tmp_path: Path) -> None:
    done = HedgingRunner(50).run(asked(tmp_path, 0), timeout_seconds=60)
    assert (done.status, done.stdout[-3:], done.stderr) == (0, "\n0\n", "said\n")
    assert not done.timed_out
    assert len(list(tmp_path.iterdir())) == 1


def test_a_late_one_is_asked_once_more_and_ended(tmp_path: Path) -> None:
    """Its whole answer counts, with its exit status, also if that is a failure."""
    done = HedgingRunner(2).run(asked(tmp_path, 1), timeout_seconds=60)
    assert (done.status, done.stdout[-3:], done.timed_out) == (1, "\n1\n", False)
    assert len(done.stdout) > 200_000
    assert len(list(tmp_path.iterdir())) == 2
    assert still_running(tmp_path) == []


def test_if_none_answers_both_are_ended_in_time(tmp_path: Path) -> None:
    done = HedgingRunner(1).run(asked(tmp_path, 9), timeout_seconds=4)
    assert done.timed_out
    assert len(list(tmp_path.iterdir())) <= 2
    assert still_running(tmp_path) == []


def test_one_that_may_take_less_time_than_that_is_asked_once(tmp_path: Path) -> None:
    assert HedgingRunner(50).run(asked(tmp_path, 9), timeout_seconds=1).timed_out
    assert len(list(tmp_path.iterdir())) <= 1
    assert still_running(tmp_path) == []


def test_one_that_cannot_be_started_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        HedgingRunner().run([str(tmp_path / "nothing")], timeout_seconds=1)


def test_whoever_is_interrupted_leaves_nothing_running(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(4)
    try:
        with pytest.raises(KeyboardInterrupt):
            HedgingRunner(1).run(asked(tmp_path, 9), timeout_seconds=60)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert still_running(tmp_path) == []
