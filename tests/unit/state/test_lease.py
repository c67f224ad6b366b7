"""The lease on the database, on a local disk.

Taken, released, taken over from the dead, and never waited for too long.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLease

from shared.host.errors import NasError
from shared.state.store.lease import (
    DatabaseLease,
    Marker,
    break_dead_holder,
    break_lease,
    is_provably_dead,
    parse_marker,
)
from shared.state.store.operations import ReadLease
from shared.state.store.state_files import StateFiles
from shared.state.store.turn import Turn
from tests.unit.state.builders import state_files


@pytest.fixture
def files(tmp_path: Path) -> StateFiles:
    (tmp_path / "nas").mkdir()
    return state_files(tmp_path / "nas" / "vmstate")


def lease_on(files: StateFiles, **more: Any) -> DatabaseLease:
    """One that looks soon and often."""
    return DatabaseLease(files, 300, first_look_seconds=0.05, poll_seconds=0.01, **more)


@pytest.fixture
def dead_marker(files: StateFiles) -> bytes:
    """The marker of a process of this machine that was killed while it held the lease."""
    program = (
        "import os, sys; from filelock import SoftFileLease\n"
        "lease = SoftFileLease(sys.argv[1], lease_duration=60); lease.acquire(); "
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(files.root / "vmtool-dblock")],
        capture_output=True,
        check=False,
        timeout=30,
    )
    found = files.perform(ReadLease())
    assert found is not None
    return found[0]


def marker(files: StateFiles) -> bytes | None:
    """The bytes of the marker that is there."""
    found = files.perform(ReadLease())
    return found and found[0]


def test_it_is_taken_for_one_transaction_and_released(files: StateFiles) -> None:
    with lease_on(files).held() as held:
        assert held
        found = parse_marker(marker(files) or b"")
        assert found is not None
        assert (found.pid, found.hostname) == (os.getpid(), socket.gethostname())
    assert marker(files) is None


def test_nothing_is_made_in_the_empty_mount_point_of_a_nas_that_is_gone(files: StateFiles) -> None:
    mountpoint = files.root.parent
    os.rename(files.root, mountpoint.with_name("unmounted"))
    with lease_on(files).held() as held:
        assert not held
    assert not files.root.exists()


def test_it_is_released_when_the_transaction_fails(files: StateFiles) -> None:
    with pytest.raises(ZeroDivisionError), lease_on(files).held():
        raise ZeroDivisionError
    assert marker(files) is None


@pytest.mark.broad
def test_the_lease_of_a_process_that_is_gone_is_taken_at_once(
    files: StateFiles, dead_marker: bytes
) -> None:
    began = time.monotonic()
    with lease_on(files, wait_seconds=20).held() as held:
        assert held
        assert marker(files) != dead_marker
    assert time.monotonic() - began < 10


def test_the_wait_for_a_live_holder_is_bounded_and_then_goes_on_without(files: StateFiles) -> None:
    other = SoftFileLease(files.root / "vmtool-dblock", lease_duration=60, thread_local=False)
    other.acquire()
    try:
        before = marker(files)
        with lease_on(files, wait_seconds=0.3).held() as held:
            assert not held
        assert marker(files) == before, "a live holder is not broken"
    finally:
        other.release()


def test_an_empty_marker_holds_nobody_up_for_ever(files: StateFiles) -> None:
    """Its holder died between creating and writing it; filelock never takes it over."""
    (files.root / "vmtool-dblock").touch()
    with lease_on(files, wait_seconds=0.3).held() as held:
        assert not held
    assert files.run(break_lease(b"", "stale")) is True
    with lease_on(files).held() as held:
        assert held


def test_a_nas_that_fails_in_between_leaves_no_lease_behind(
    files: StateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction goes on without it, and whatever the thread gets later is given back."""
    other = SoftFileLease(files.root / "vmtool-dblock", lease_duration=60, thread_local=False)
    other.acquire()

    def refuse(_: object) -> None:
        raise NasError("refused")

    monkeypatch.setattr(files, "run", refuse)
    with lease_on(files, wait_seconds=0.2).held() as held:
        assert not held
    other.release()
    assert marker(files) is None


def test_a_lease_that_comes_too_late_is_given_back(files: StateFiles, tmp_path: Path) -> None:
    attempt = lease_on(files, wait_seconds=5, turns=tmp_path / "turns").attempt()
    attempt.give_up()
    attempt.thread.start()
    attempt.thread.join(10)
    assert attempt.succeeded
    assert marker(files) is None


class TestTurns:
    def test_the_writers_of_a_host_wait_for_their_turn_and_then_have_the_lease(
        self, files: StateFiles, tmp_path: Path
    ) -> None:
        """While one has its turn, the others do not even ask the NAS."""
        first = Turn(tmp_path / "turns")
        first.take()
        with lease_on(files, wait_seconds=0.2, turns=tmp_path / "turns").held() as held:
            assert (held, marker(files)) == (False, None)
        first.pass_on()
        first.pass_on()
        with lease_on(files, turns=tmp_path / "turns").held() as held:
            assert held

    def test_one_that_gave_up_passes_its_turn_on_when_it_comes(
        self, files: StateFiles, tmp_path: Path
    ) -> None:
        first = Turn(tmp_path / "turns")
        first.take()
        given_up = lease_on(files, wait_seconds=5, turns=tmp_path / "turns").attempt()
        given_up.thread.start()
        given_up.give_up()
        first.pass_on()
        given_up.thread.join(10)
        assert marker(files) is None
        with lease_on(files, turns=tmp_path / "turns").held() as held:
            assert held

    def test_a_host_without_threads_for_a_lease_keeps_nobody_waiting(
        self, files: StateFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that exports for hours would else keep the turn of its host."""

        def lacking(*_: object, **__: object) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(SoftFileLease, "acquire", lacking)
            lease = lease_on(files, wait_seconds=0.2, turns=tmp_path / "turns")
            with lease.held() as held:
                assert not held
        with lease_on(files, turns=tmp_path / "turns").held() as held:
            assert held

    def test_the_turn_of_a_process_that_was_killed_is_over(
        self, files: StateFiles, tmp_path: Path
    ) -> None:
        program = (
            "import os, sys; from pathlib import Path; from shared.state.store.turn import Turn\n"
            "Turn(Path(sys.argv[1])).take(); os.kill(os.getpid(), 9)"
        )
        subprocess.run([sys.executable, "-c", program, str(tmp_path / "turns")], check=False)
        with lease_on(files, turns=tmp_path / "turns").held() as held:
            assert held

    @pytest.mark.parametrize("there", ["a link", "a directory", "no directory"])
    def test_without_a_file_for_turns_the_lease_is_tried_for_at_once(
        self, files: StateFiles, tmp_path: Path, there: str
    ) -> None:
        turns = tmp_path / "host" / "turns"
        if there == "no directory":
            turns.parent.write_text("")
        else:
            turns.parent.mkdir()
            turns.mkdir() if there == "a directory" else turns.symlink_to(tmp_path / "elsewhere")
        with lease_on(files, turns=turns).held() as held:
            assert held
        assert not (tmp_path / "elsewhere").exists()


class TestBreaking:
    @pytest.mark.broad
    def test_what_was_judged_is_removed(self, files: StateFiles, dead_marker: bytes) -> None:
        assert files.run(break_lease(dead_marker, "stale")) is True
        assert marker(files) is None
        assert os.listdir(files.root / "tmp") == []

    def test_a_new_holder_that_was_caught_gets_it_back(self, files: StateFiles) -> None:
        with lease_on(files).held():
            mine = marker(files)
            assert files.run(break_lease(b"what was judged", "stale")) is False
            assert marker(files) == mine
        assert marker(files) is None, "it is still its own to release"
        assert os.listdir(files.root / "tmp") == []

    def test_nothing_there_is_nothing_broken(self, files: StateFiles) -> None:
        assert files.run(break_lease(b"judged", "stale")) is False
        assert files.run(break_dead_holder("stale")) is False

    @pytest.mark.broad
    def test_a_holder_of_another_host_is_never_called_dead_by_its_number(
        self, files: StateFiles, dead_marker: bytes
    ) -> None:
        elsewhere = dead_marker.replace(f"host={socket.gethostname()}".encode(), b"host=elsewhere")
        assert elsewhere != dead_marker
        (files.root / "vmtool-dblock").write_bytes(elsewhere)
        assert files.run(break_dead_holder("stale")) is False
        assert marker(files) == elsewhere


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"filelock/2",
        b"filelock/2\npid=x",
        b"filelock/2\npid=\xd9\xa3",
        b"filelock/2\npid=99999999999",
        b"filelock/2\npid=-1",
        b"\xff\xfe",
        b"12345",
    ],
)
def test_a_marker_that_says_nothing_of_its_holder_is_not_judged(data: bytes) -> None:
    assert parse_marker(data) is None


def test_a_marker_is_read_whatever_else_it_says() -> None:
    assert parse_marker(b"filelock/3\ncolour=blue\npid=12\nhost=alpha\ntoken=t\n") == Marker(
        12, "alpha", "t"
    )


def test_a_process_that_runs_is_not_dead() -> None:
    assert not is_provably_dead(Marker(os.getpid(), socket.gethostname(), "t"))
    assert is_provably_dead(Marker(2**31 - 1, socket.gethostname(), "t"))
