"""Commands that only ask: a late one is asked once more, and nothing is left running."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from shared.host.hedging import HedgingRunner
from tests.support.waiting import wait_for

#: Notes its number; the first so many of them hang, until there is a file `go` beside the folder.
ASKED = """
import os, pathlib, sys, time
folder, hanging = pathlib.Path(sys.argv[1]), int(sys.argv[2])
number = len(list(folder.iterdir()))
(folder / str(os.getpid())).touch()
print("x" * 200_000, flush=True)
while number < hanging and not os.path.exists(f"{folder}.go"): time.sleep(0.05)
print("y" * 200_000, flush=True)
print("said", file=sys.stderr, flush=True)
(folder.parent / f"{os.getpid()}.ended").touch()
print(number); sys.exit(number)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where those that are asked are noted; none of them outlives the test."""
    made = tmp_path / "asked"
    made.mkdir()
    yield made
    let_go(made)


def let_go(folder: Path) -> None:
    """Whatever hangs goes on, and is gone."""
    folder.with_name(f"{folder.name}.go").touch()
    wait_for(lambda: still_running(folder) == [], "them to end by themselves")


def asked(folder: Path, hanging: int) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", ASKED, str(folder), str(hanging)]


def still_running(folder: Path) -> list[int]:
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(psutil.Error):
            if psutil.Process(int(path.name)).status() != psutil.STATUS_ZOMBIE:
                found.append(int(path.name))
    return found


def test_one_that_answers_in_time_is_asked_once(folder: Path) -> None:
    done = HedgingRunner(50).run(asked(folder, 0), timeout_seconds=60)
    assert (done.status, done.stdout[-3:], done.stderr) == (0, "\n0\n", "said\n")
    assert not done.timed_out
    assert len(list(folder.iterdir())) == 1


@pytest.mark.broad
def test_a_late_one_is_asked_once_more_and_left_to_end_by_itself(folder: Path) -> None:
    """The whole answer of the other counts, with its exit status, also if that is a failure."""
    done = HedgingRunner(2).run(asked(folder, 1), timeout_seconds=60)
    assert (done.status, done.stdout[-3:], done.timed_out) == (1, "\n1\n", False)
    assert len(done.stdout) > 200_000
    assert len(list(folder.iterdir())) == 2
    (left,) = still_running(folder)
    let_go(folder)
    HedgingRunner(50).run(asked(folder, 0), timeout_seconds=60)
    assert not psutil.pid_exists(left), "its end was taken note of"


@pytest.mark.broad
def test_one_that_was_left_is_ended_by_the_next_question_after_its_time(folder: Path) -> None:
    ahead = [0.0]
    runner = HedgingRunner(1, now=lambda: time.monotonic() + ahead[0])
    runner.run(asked(folder, 1), timeout_seconds=60)
    (left,) = still_running(folder)
    runner.run(asked(folder, 0), timeout_seconds=60)
    assert still_running(folder) == [left], "it has time"
    ahead[0] = 60
    runner.run(asked(folder, 0), timeout_seconds=60)
    assert still_running(folder) == []


@pytest.mark.broad
def test_one_that_was_left_can_say_all_it_has_to_say(folder: Path) -> None:
    """Whoever asked has ended: nobody reads it, and it must not die of that."""
    program = (
        "import sys; from shared.host.hedging import HedgingRunner\n"
        "print(HedgingRunner(1).run(sys.argv[1:], timeout_seconds=60).status)"
    )
    command = [sys.executable, "-c", program, *asked(folder, 1)]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "1\n"
    (left,) = still_running(folder)
    let_go(folder)
    assert (folder.parent / f"{left}.ended").exists()


def test_one_that_ends_by_itself_after_its_time_has_answered(folder: Path) -> None:
    """The machine stood still, and not the question, which holds the lock of a VM."""
    done = HedgingRunner(patience_seconds=60).run(asked(folder, 0), timeout_seconds=0)
    assert (done.status, done.stdout[-3:], done.timed_out) == (0, "\n0\n", False)
    assert len(list(folder.parent.glob("*.ended"))) == 1


@pytest.mark.broad
def test_if_none_answers_both_are_ended_in_time(folder: Path) -> None:
    done = HedgingRunner(1).run(asked(folder, 9), timeout_seconds=4)
    assert done.timed_out
    assert len(list(folder.iterdir())) <= 2
    assert still_running(folder) == []


@pytest.mark.broad
def test_one_that_may_take_less_time_than_that_is_asked_once(folder: Path) -> None:
    assert HedgingRunner(50).run(asked(folder, 9), timeout_seconds=1).timed_out
    assert len(list(folder.iterdir())) <= 1
    assert still_running(folder) == []


def test_one_that_cannot_be_started_says_so(folder: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        HedgingRunner().run([str(folder / "nothing")], timeout_seconds=1)


@contextlib.contextmanager
def interrupted(first: Callable[[], object]) -> Iterator[None]:
    """Within, we are interrupted after a while, when that has been done."""

    def interrupt(*_: object) -> None:
        first()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(4)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.broad
def test_whoever_is_interrupted_leaves_nothing_running(folder: Path) -> None:
    with interrupted(lambda: None):
        HedgingRunner(1).run(asked(folder, 9), timeout_seconds=60)
    assert still_running(folder) == []


@pytest.mark.broad
def test_whoever_is_interrupted_lets_a_question_end_by_itself_for_a_while(folder: Path) -> None:
    with interrupted(folder.with_name(f"{folder.name}.go").touch):
        HedgingRunner(50, patience_seconds=60).run(asked(folder, 9), timeout_seconds=60)
    assert len(list(folder.parent.glob("*.ended"))) == 1
