"""Two machines that nothing tells apart but their boot: restarted, or a full copy of one at work.

Time passes only when somebody sleeps, but where a real heart beats.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from shared.host.clock import SystemClock
from shared.state.rules import claims
from shared.state.sessions import deaths, recovery
from shared.state.sessions.heartbeat import BEATS_PER_LEASE
from shared.state.sessions.session import Session
from shared.state.states import State
from shared.state.store.create import create
from shared.state.store.database import Database
from shared.state.store.opening import open_database
from tests.unit.state.builders import HERE, WHEN, BusyClock, StillClock, vm

LEASE = 100.0
THREE_BEATS = 3 * LEASE / BEATS_PER_LEASE
#: The same machine in another boot, or its full copy.
AGAIN = replace(HERE, boot="another")


def created(folder: Path, lease_seconds: float = LEASE) -> Database:
    (folder / "nas").mkdir()
    made = create(folder / "nas" / "vmstate", HERE, StillClock(), lease_seconds)
    made.commit_once(
        lambda contents: contents.with_vm(vm("web01", State.BACKUP_NECESSARY)), "add", "test"
    )
    return made


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return created(tmp_path)


@pytest.fixture
def holder(database: Database) -> Session:
    """A session that claimed a VM and beats only when it is told to."""
    session = database.session("backup")
    session.heartbeat.beat()
    claim(session)
    return session


def claim(session: Session) -> None:
    session.commit(
        lambda contents: claims.grant(contents, "web01", session.id, "backup", WHEN), "claim"
    )


def seen_again(database: Database, clock: StillClock) -> Database:
    """The database, as it is opened in the other boot."""
    return open_database(database.root, AGAIN, clock)


def find_here(database: Database) -> list[deaths.Dead]:
    return deaths.find_here(database, deaths.live_sessions(database.head().contents))


def test_after_a_restart_three_heartbeats_that_fail_to_appear_are_proof(
    database: Database, holder: Session
) -> None:
    clock = StillClock()
    dead = find_here(seen_again(database, clock))
    assert [grave.session.id for grave in dead] == [holder.id]
    assert dead[0].reason == "its machine was restarted, and no heartbeat for 30 s"
    assert THREE_BEATS <= sum(clock.slept) < THREE_BEATS + LEASE / BEATS_PER_LEASE


@pytest.mark.parametrize("look", [1, 2, 5])
def test_the_copy_beats_while_the_other_one_recovers(
    database: Database, holder: Session, look: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = BusyClock(lambda count: holder.heartbeat.beat() if count == look else None)
    assert find_here(seen_again(database, clock)) == []
    assert "the names and the machine id of this one" in caplog.text
    assert len(clock.slept) == look


def test_a_real_heart_beats_while_the_other_one_recovers_and_goes_on(tmp_path: Path) -> None:
    database = created(tmp_path, 2.0)
    with open_database(database.root, HERE, SystemClock()).session("backup") as living:
        claim(living)
        copy = open_database(database.root, AGAIN, SystemClock())
        assert recovery.expire(copy, find_here(copy), "database") == []
        living.commit(lambda contents: contents, "still its own")
        held = copy.head().contents.vms["web01"].claim
        assert held is not None
        assert held.session == living.id


def test_without_the_watch_the_living_one_loses_what_it_holds(
    database: Database, holder: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: another boot was once proof by itself."""
    monkeypatch.setattr(deaths, "three_beats", lambda _: 0.0)
    clock = BusyClock(lambda count: holder.heartbeat.beat())
    assert [grave.session.id for grave in find_here(seen_again(database, clock))] == [holder.id]


def test_one_that_ends_while_it_is_watched_is_no_copy(
    database: Database, holder: Session, caplog: pytest.LogCaptureFixture
) -> None:
    beat = database.root / "node" / holder.id
    clock = BusyClock(lambda count: beat.unlink(missing_ok=True))
    assert find_here(seen_again(database, clock)) == []
    assert "the names and the machine id" not in caplog.text


def test_where_the_kernel_names_no_boot_the_whole_lease_time_is_watched(
    database: Database, holder: Session
) -> None:
    clock = StillClock()
    nameless = open_database(database.root, replace(HERE, boot=""), clock)
    assert find_here(nameless) == []
    assert clock.slept == []
    rows = deaths.live_sessions(nameless.head().contents)
    assert [grave.session.id for grave in deaths.find_silent(nameless, rows)] == [holder.id]
    assert sum(clock.slept) >= LEASE


def test_other_hosts_watch_for_the_whole_lease_time_as_ever(
    database: Database, holder: Session
) -> None:
    clock = StillClock()
    other = open_database(database.root, replace(AGAIN, node="beta", machine="other"), clock)
    rows = deaths.live_sessions(other.head().contents)
    assert [grave.reason for grave in deaths.find_silent(other, rows)] == ["no heartbeat for 100 s"]
