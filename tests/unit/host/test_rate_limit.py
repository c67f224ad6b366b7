"""One limit for all processes of a host, by clocks of their own."""

import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.host.rate_limit import CREDIT_SECONDS, FILE_NAME, UNLIMITED, Pace, RateLimit
from tests.unit.state.builders import StillClock

RATE = 1_000_000
PIECE = 50_000

#: A process that passes bytes by a clock of its own, which begins when that of the others does.
PROCESS = """
import sys
import time
from pathlib import Path
from shared.host import rate_limit
from shared.host.rate_limit import RateLimit
from tests.unit.state.builders import StillClock

class Patient(StillClock):
    def sleep(self, seconds):
        if seconds == rate_limit.TRY_SECONDS:
            time.sleep(seconds)  # however long the other one has the lock, its clock stands still
        else:
            super().sleep(seconds)

clock = Patient(1000.0)
pace = RateLimit(Path(sys.argv[1]), int(sys.argv[2]), clock).pace()
print(flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[4])):
    pace.wait(int(sys.argv[3]))
print(clock.seconds)
"""


def limit(tmp_path: Path, clock: StillClock, rate: int = RATE) -> RateLimit:
    return RateLimit(tmp_path, rate, clock)


def test_what_passes_takes_as_long_as_the_limit_says(tmp_path: Path) -> None:
    clock = StillClock(1000.0)
    pace = limit(tmp_path, clock).pace()
    for _ in range(100):
        pace.wait(PIECE)
    assert clock.seconds == pytest.approx(1005.0)
    assert max(clock.slept) <= 0.25, "so that it can be stopped meanwhile"


@pytest.mark.broad
def test_two_processes_share_it(tmp_path: Path) -> None:
    count = 300
    words = [sys.executable, "-c", PROCESS, str(tmp_path), str(RATE), str(PIECE), str(count)]
    both = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        process.stdout.readline()
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [float(process.communicate()[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert max(ends) == pytest.approx(1000 + 2 * count * PIECE / RATE, abs=CREDIT_SECONDS)


def test_what_was_not_used_is_not_saved_up(tmp_path: Path) -> None:
    clock = StillClock(1000.0)
    pace = limit(tmp_path, clock).pace()
    pace.wait(PIECE)
    clock.seconds += 3600
    began = clock.seconds
    pace.wait(2 * RATE)
    assert clock.seconds - began == pytest.approx(2 - CREDIT_SECONDS)


def test_time_lost_between_the_pieces_is_made_up_for(tmp_path: Path) -> None:
    clock = StillClock(1000.0)
    pace = limit(tmp_path, clock).pace()
    for _ in range(100):
        pace.wait(PIECE)
        clock.seconds += 0.03  # the bytes pass
    assert clock.seconds == pytest.approx(1005.0, abs=0.1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\0" * 24,
        b"00000000000000001000.0000",
        b"0000000000000000nan.000000",
        b"99999999999999999.999999",
        b"00000000000001000000.000",
        b"000000000000010000000.00",
        b"00000000000000001061.000000",
    ],
)
def test_what_can_be_no_moment_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    clock = StillClock(1000.0)
    limit(tmp_path, clock).pace().wait(RATE)
    assert clock.seconds == pytest.approx(1001.0)
    assert len((tmp_path / FILE_NAME).read_bytes()) == 24


def test_a_moment_before_the_boot_holds_up_nobody(tmp_path: Path) -> None:
    limit(tmp_path, StillClock(5_000_000.0)).pace().wait(RATE)
    clock = StillClock(10.0)
    limit(tmp_path, clock).pace().wait(RATE)
    assert clock.seconds == pytest.approx(11.0)


def test_whoever_is_to_stop_does_not_wait(tmp_path: Path) -> None:
    clock = StillClock(1000.0)
    limit(tmp_path, clock).pace(lambda: clock.seconds >= 1001).wait(100 * RATE)
    assert clock.seconds < 1001.5


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[int]:
    """The descriptor by which somebody else has the lock, and keeps it."""
    descriptor = os.open(tmp_path / FILE_NAME, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


def test_for_a_lock_that_is_kept_one_waits_some_seconds_once_and_goes_on_alone(
    tmp_path: Path, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = StillClock(1000.0)
    limited = limit(tmp_path, clock)
    limited.pace().wait(10 * RATE)
    assert clock.seconds == pytest.approx(1015.0, abs=CREDIT_SECONDS)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "another process has kept it for 5 s" in caplog.text
    fcntl.flock(kept, fcntl.LOCK_UN)
    limited.pace().wait(RATE)
    assert clock.seconds == pytest.approx(1016.0, abs=2 * CREDIT_SECONDS)
    assert len((tmp_path / FILE_NAME).read_bytes()) == 24, "together with the others again"
    fcntl.flock(kept, fcntl.LOCK_EX)
    limited.pace().wait(RATE)
    assert len(caplog.records) == 1


def test_whoever_is_to_stop_does_not_wait_for_the_lock(
    tmp_path: Path, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = StillClock(1000.0)
    limit(tmp_path, clock).pace(lambda: clock.seconds >= 1001).wait(RATE)
    assert clock.seconds == pytest.approx(1001.0, abs=0.1)
    assert caplog.records == []
    assert os.fstat(kept).st_size == 0


def test_a_pace_ends_with_its_work_and_with_what_it_belongs_to() -> None:
    for first, second in ((True, False), (False, True), (False, False)):
        pace = Pace(None, lambda: first).until(lambda: second)  # noqa: B023 - asked at once
        assert pace.should_stop() == (first or second)


def test_without_a_limit_nothing_is_kept(tmp_path: Path) -> None:
    clock = StillClock(1000.0)
    limit(tmp_path, clock, 0).pace().wait(100 * RATE)
    UNLIMITED.wait(100 * RATE)
    assert not clock.slept
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["directory", "link", "file above"])
def test_without_a_lock_each_keeps_to_it_alone_and_says_so_once(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    if kind == "file above":
        state.touch()
    else:
        state.mkdir()
    if kind == "directory":
        (state / FILE_NAME).mkdir()
    if kind == "link":
        (state / FILE_NAME).symlink_to(tmp_path / "elsewhere")
    clock = StillClock(1000.0)
    with caplog.at_level(logging.WARNING):
        limit(state, clock).pace().wait(2 * RATE)
    assert clock.seconds == pytest.approx(1002.0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_makes_belongs_to_the_user_of_the_workers(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 1235)
    limit(tmp_path, StillClock()).pace().wait(1)
    made = (tmp_path / FILE_NAME).stat()
    assert (made.st_uid, made.st_gid) == (1234, 1235)
