"""The heartbeat of a process: seen by others, and its own reason to stop in time."""

import errno
import os
from pathlib import Path

import pytest

from shared.host.errors import LockLostError
from shared.host.process_identity import ProcessIdentity
from shared.state.sessions.heartbeat import Doing, Heartbeat, parse_beat, read_beat
from tests.support.waiting import wait_for
from tests.unit.state.builders import StillClock


@pytest.fixture
def heartbeat(tmp_path: Path, clock: StillClock) -> Heartbeat:
    """Beats by itself once in 30 s, which no test waits for."""
    return Heartbeat(tmp_path, "alpha.1", 300, clock, {"node": "alpha", "pid": 7}, Doing("backup"))


def test_others_see_who_it_is_and_what_it_does(tmp_path: Path, heartbeat: Heartbeat) -> None:
    heartbeat.start()
    try:
        seen = parse_beat(read_beat(tmp_path, "alpha.1"))
        assert (seen["node"], seen["pid"], seen["worker"]) == ("alpha", 7, "backup")
        heartbeat.doing.vm, heartbeat.doing.percent, heartbeat.doing.child = (
            "web01\ud800",
            12.5,
            ProcessIdentity(9, 1.5),
        )
        heartbeat.beat()
        seen = parse_beat(read_beat(tmp_path, "alpha.1"))
        assert (seen["vm"], seen["percent"], seen["child"]) == (
            "web01\ud800",
            12.5,
            {"pid": 9, "started": 1.5},
        )
    finally:
        heartbeat.stop()


def test_each_beat_differs_and_is_written_in_place(tmp_path: Path, heartbeat: Heartbeat) -> None:
    """An SMB client that polls the name of a replaced file goes on reading the old one."""
    heartbeat.doing.vm = "a long name that makes the next beat shorter"
    heartbeat.beat()
    first, inode = read_beat(tmp_path, "alpha.1"), os.stat(tmp_path / "alpha.1").st_ino
    heartbeat.doing.vm = ""
    heartbeat.beat()
    second = read_beat(tmp_path, "alpha.1")
    assert second not in (None, first)
    assert "vm" not in parse_beat(second), "nothing of the longer beat is left at the end"
    assert os.stat(tmp_path / "alpha.1").st_ino == inode


def test_it_beats_by_itself_until_it_is_stopped(tmp_path: Path, clock: StillClock) -> None:
    heartbeat = Heartbeat(tmp_path, "alpha.1", 0.1, clock, {}, Doing("backup"))
    heartbeat.start()
    first = read_beat(tmp_path, "alpha.1")
    wait_for(lambda: read_beat(tmp_path, "alpha.1") != first, "the next beat")
    heartbeat.stop()
    assert read_beat(tmp_path, "alpha.1") is None


def test_a_name_that_is_taken_is_refused(tmp_path: Path, heartbeat: Heartbeat) -> None:
    (tmp_path / "alpha.1").touch()
    with pytest.raises(FileExistsError):
        heartbeat.start()


def test_it_stops_its_worker_before_others_may_take_over(
    heartbeat: Heartbeat, clock: StillClock
) -> None:
    heartbeat.beat()
    clock.seconds += 200
    heartbeat.check()
    clock.seconds += 11
    with pytest.raises(LockLostError, match="211 s"):
        heartbeat.check()
    heartbeat.beat()
    heartbeat.check()


def test_a_beat_that_took_long_counts_from_its_beginning(
    heartbeat: Heartbeat, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may have read the file just before the write that hung got through."""
    monkeypatch.setattr(os, "fsync", lambda _: clock.sleep(250))
    heartbeat.beat()
    with pytest.raises(LockLostError):
        heartbeat.check()


def test_a_beat_that_fails_is_no_beat(
    heartbeat: Heartbeat, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat.beat()

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    clock.seconds += 250
    with pytest.raises(OSError, match="Input/output"):
        heartbeat.beat()
    with pytest.raises(LockLostError):
        heartbeat.check()


@pytest.mark.parametrize("data", [None, b"", b"{", b"[1]", b"\xff\xfe", b"null", b"7"])
def test_a_beat_that_cannot_be_read_says_nothing(data: bytes | None) -> None:
    assert parse_beat(data) == {}


def test_a_symbolic_link_in_its_place_is_not_followed(tmp_path: Path, heartbeat: Heartbeat) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (tmp_path / "alpha.1").symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        heartbeat.beat()
    with pytest.raises(OSError, match="symbolic links"):
        read_beat(tmp_path, "alpha.1")
    assert secret.read_text() == "secret"


@pytest.mark.parametrize("planted", ["a pipe", "another name of a copy"])
def test_what_is_put_in_its_place_is_neither_waited_for_nor_overwritten(
    tmp_path: Path, heartbeat: Heartbeat, planted: str
) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(b"data")
    if planted == "a pipe":
        os.mkfifo(tmp_path / "alpha.1")
    else:
        os.link(copy, tmp_path / "alpha.1")
    with pytest.raises(OSError, match=f"no file of this|{os.strerror(errno.ENXIO)}"):
        heartbeat.beat()
    assert copy.read_bytes() == b"data"
