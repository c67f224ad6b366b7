"""Processes and boots told apart by what no wall clock moves."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from shared.host import kernel
from shared.host.clock import SystemClock, sleepless_clock
from shared.host.process_identity import ProcessIdentity
from tests.support.waiting import wait_for

PROJECT = Path(__file__).parents[3]


def unanswered(_: object) -> str:
    raise AssertionError("nobody is to be asked")


def proc(
    folder: Path,
    pid: int,
    *,
    name: str = "worker",
    state: str = "S",
    ticks: int = 4711,
    space: str = "time:[1]",
) -> Path:
    """A /proc with one process in it."""
    (folder / str(pid)).mkdir(parents=True)
    numbers = " ".join(str(number) for number in range(4, 22))
    (folder / str(pid) / "stat").write_text(f"{pid} ({name}) {state} {numbers} {ticks} 23 24\n")
    (folder / "self" / "ns").mkdir(parents=True)
    (folder / "self" / "ns" / "time").symlink_to(space)
    return folder


@pytest.mark.parametrize("name", ["worker", "a b", "x) Z 1 2 (", "\n)"])
def test_the_start_is_read_whatever_the_process_is_called(tmp_path: Path, name: str) -> None:
    assert kernel.look(9, proc(tmp_path, 9, name=name), "linux") == kernel.Look(
        "4711@time:[1]", ended=False
    )


def test_a_zombie_has_ended_and_a_process_that_cannot_be_seen_is_in_doubt(tmp_path: Path) -> None:
    found = kernel.look(9, proc(tmp_path, 9, state="Z"), "linux")
    assert found is not None
    assert found.ended
    assert kernel.look(10, tmp_path, "linux") is None
    assert kernel.exists(os.getpid())
    assert kernel.exists(1)


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("1@time:[1]", "2@time:[1]", True),
        ("1@time:[1]", "1@time:[1]", False),
        ("1@time:[1]", "2@time:[2]", False),
        ("", "2@time:[1]", False),
        ("1@", "2@", True),
    ],
)
def test_starts_are_compared_only_where_they_are_counted_alike(
    one: str, other: str, *, differ: bool
) -> None:
    assert kernel.born_differ(one, other) is differ


def test_the_start_of_a_process_does_not_move_with_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = ProcessIdentity.of(os.getpid())
    create_time = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: create_time(process) - 3600)
    after = ProcessIdentity.of(os.getpid())
    assert before is not None
    assert after is not None
    assert before.born == after.born
    assert before.is_alive()
    assert before.is_certain()


@pytest.mark.broad
def test_a_process_is_alive_for_one_that_counts_time_otherwise() -> None:
    """In a time namespace, clock and start of every process are shifted by a day."""
    here = ProcessIdentity.of(os.getpid())
    assert here is not None
    program = (
        f"from shared.host.process_identity import ProcessIdentity as P; print(P({here.pid}, "
        f"{here.started}, {here.born!r}).is_alive(), P.of({here.pid}))"
    )
    shift = [
        "unshare",
        "--user",
        "--map-root-user",
        "--time",
        "--boottime",
        "86400",
        "--monotonic",
        "86400",
        "--fork",
    ]
    done = subprocess.run(
        [*shift, sys.executable, "-c", program],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    alive, _, there = done.stdout.partition(" ")
    assert alive == "True"
    assert here.born not in there, "the namespace shifts nothing: this test shows nothing"


def test_a_process_that_has_ended_is_gone_and_a_zombie_too() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(child.pid)
    assert identity is not None
    assert identity.is_alive()
    assert child.stdin is not None
    child.stdin.close()
    wait_for(lambda: not identity.is_alive())  # a zombie: nobody has waited for it yet
    assert not identity.is_certain()
    child.wait()
    assert not identity.is_alive()


def test_the_boot_is_named_by_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("0f0e-1\n")
    assert kernel.boot_id(unanswered, tmp_path, "linux") == "0f0e-1"
    assert kernel.boot_id(unanswered, tmp_path / "none", "linux") == "", (
        "a moment of boot by the wall clock is no name"
    )
    asked = []
    assert (
        kernel.boot_id(lambda words: asked.append(words) or "B0-07\n", tmp_path, "darwin")
        == "B0-07"
    )  # type: ignore[func-returns-value]
    assert asked == [["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]]


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [("a-1", "a-2", True), ("a-1", "a-1", False), ("a-1", "", False), ("a-1", "1795000000", False)],
)
def test_a_restart_is_proven_by_two_names_only(one: str, other: str, *, differ: bool) -> None:
    assert kernel.boots_differ(one, other) is differ


def test_deadlines_are_kept_by_a_clock_that_goes_on_in_sleep() -> None:
    clocks = SimpleNamespace(CLOCK_MONOTONIC=1, CLOCK_MONOTONIC_RAW=4, CLOCK_UPTIME_RAW=8)
    assert sleepless_clock("darwin", clocks) == 4
    assert sleepless_clock("linux", SimpleNamespace(CLOCK_MONOTONIC=1, CLOCK_BOOTTIME=7)) == 7
    assert sleepless_clock("freebsd14", clocks) is None
    assert SystemClock().boottime() >= SystemClock().monotonic() - 1
