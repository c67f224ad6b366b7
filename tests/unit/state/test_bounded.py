"""Waiting for the NAS only so long."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.host.errors import NasError
from shared.nas.waiting import Bounded
from shared.state.sessions.heartbeat import HANGING_SECONDS, Doing, Heartbeat, read_beat
from shared.state.store import state_files
from shared.state.store.database import Database
from shared.state.store.operations import ListGenerations, ReadView
from shared.state.store.state_files import StateFiles
from tests.support.waiting import wait_for
from tests.unit.state.builders import StillClock, vm


@pytest.fixture
def impatient(database: Database) -> Database:
    """The same, which waits for the view only for a moment."""
    files = StateFiles(database.root, database.clock, view_seconds=0.2)
    return Database(files, database.version, database.identity, database.clock)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The view cannot be opened until the event is set, at the end of the test at the latest."""
    go_on, real = threading.Event(), state_files.read_file

    def read_file(path: Path, *limit: int) -> bytes:
        if path.name == "vmtool-statedb":
            go_on.wait(60)
        return real(path, *limit)

    monkeypatch.setattr(state_files, "read_file", read_file)
    yield go_on
    go_on.set()


def test_what_ends_in_time_gives_its_result_or_raises() -> None:
    bounded = Bounded("file")
    assert bounded(lambda: 7) == 7
    with pytest.raises(FileNotFoundError):
        bounded(lambda: os.open("/no/such/file", os.O_RDONLY))
    assert bounded(lambda: None) is None


def test_what_hangs_is_given_up_and_not_started_again_beside_it() -> None:
    bounded, go_on, started = Bounded("file", seconds=0.1), threading.Event(), []
    try:
        with pytest.raises(TimeoutError, match=r"no answer within"):
            bounded(lambda: started.append(1) or go_on.wait(60))
        with pytest.raises(TimeoutError, match="not answered since"):
            bounded(lambda: started.append(2))
        assert started == [1]
    finally:
        go_on.set()
    wait_for(lambda: answers(bounded, 8), "what hung to be over")


def answers(bounded: Bounded, number: int) -> bool:
    """Whether something else is done again."""
    with contextlib.suppress(TimeoutError):
        return bounded(lambda: number) == number
    return False


def test_a_commit_stands_when_the_view_hangs(
    impatient: Database, hanging: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen on SMB: the open hung for minutes, and the worker with it, and its claim."""
    head = impatient.commit_once(lambda contents: contents.with_vm(vm("web01")), "add", "test")
    assert "vmtool-statedb is behind" in caplog.text
    assert "no answer" in caplog.text
    assert impatient.head() == head
    impatient.renew_view()
    assert "not answered since" in caplog.text


def test_the_view_is_repaired_by_the_next_process(
    database: Database, impatient: Database, hanging: threading.Event
) -> None:
    impatient.commit_once(lambda contents: contents.with_vm(vm("web01")), "add", "test")
    hanging.set()
    database.renew_view()
    assert (database.root / "vmtool-statedb").read_text() == "web01:CLEAN\n"


def test_a_heart_does_not_beat_for_a_worker_that_hangs(
    database: Database,
    clock: StillClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Any operation but that on the view may hang, too.

    Then others take over, as from a worker that fell silent.
    """
    heartbeat = Heartbeat(
        database.root / "node",
        "alpha.1",
        300,
        clock,
        {},
        Doing("backup"),
        database.files.seconds_under_way,
    )
    beats = []
    heartbeat.beat()

    def hang(*_: object) -> tuple[int, ...]:
        for seconds in (HANGING_SECONDS - 1, 2):
            clock.seconds += seconds
            heartbeat.beat_if_alive()
            beats.append(read_beat(database.root / "node", "alpha.1"))
        return ()

    monkeypatch.setattr(StateFiles, "list_generations", hang)
    first = read_beat(database.root / "node", "alpha.1")
    database.files.perform(ListGenerations())
    assert beats[0] not in (None, first)
    assert beats[1] == beats[0]
    assert "has not answered for 181 s" in caplog.text
    heartbeat.beat_if_alive()
    assert read_beat(database.root / "node", "alpha.1") != beats[1], (
        "it goes on when the operation is over"
    )


def test_reading_the_view_says_what_hangs(impatient: Database, hanging: threading.Event) -> None:
    with pytest.raises(NasError, match=r"no answer within 0 s \(vmtool-statedb\)"):
        impatient.files.perform(ReadView())
