"""Holding a VM: claimed by a commit, asked for, and let go of once, whatever happens."""

import contextlib
from functools import partial

import pytest

from shared.host.errors import LockedError, LockLostError, NasError
from shared.state.rules import backup, claims, expiry
from shared.state.sessions.heartbeat import BEATS_PER_LEASE
from shared.state.sessions.holding import Start, holding
from shared.state.states import State
from shared.state.store.database import Database
from tests.unit.state.builders import WHEN, StillClock, vm


@pytest.fixture
def database(database: Database) -> Database:
    database.commit_once(
        lambda contents: contents.with_vm(vm("web01", State.CLEAN)).with_vm(
            vm("db01", State.BACKUP_NECESSARY)
        ),
        "add",
        "test",
    )
    return database


def start(purpose: str = "verify", key: str = "web01") -> Start:
    return partial(claims.grant, key=key, purpose=purpose, floor=40)  # type: ignore[arg-type]


def claim_of(database: Database, key: str = "web01"):
    return database.head().contents.vms[key].claim


def test_the_vm_is_held_inside_and_free_again_behind(database: Database) -> None:
    with database.session("test") as session:
        with holding(session, start(), "look") as held:
            assert claim_of(database) == held.claim
            assert held.claim.number == 41
            assert (session.doing.vm, session.doing.phase) == ("web01", "verify")
            held.check()
        assert claim_of(database) is None
        assert (session.doing.vm, session.doing.phase) == ("", "")


@pytest.mark.parametrize("committed_by", ["the holding", "its session"])
def test_what_was_let_go_by_a_commit_is_not_let_go_again(
    database: Database, committed_by: str
) -> None:
    with database.session("test") as session:
        with holding(session, start("backup", "db01"), "look") as held:
            commit = held.commit if committed_by == "the holding" else session.commit
            fail = partial(backup.failed, key="db01", own=held.claim, error="no", when=WHEN)
            before = commit(fail, "failed").generation
        assert database.head().generation == before
    assert database.head().contents.vms["db01"].status == State.BACKUP_NECESSARY


def test_after_an_error_the_vm_is_free_and_the_session_goes_on(database: Database) -> None:
    with database.session("test") as session:
        with pytest.raises(NasError), holding(session, start(), "look"):
            raise NasError("gone")
        assert claim_of(database) is None
        assert database.head().header.reason == "look: gone"
        with holding(session, start(key="db01"), "look"):
            assert claim_of(database, "db01") is not None


def test_an_error_while_letting_go_does_not_hide_the_one_before(database: Database) -> None:
    """A VM of which a backup is in progress cannot be let go just so."""
    with database.session("test") as session:
        with pytest.raises(NasError, match="first"), holding(session, start("backup", "db01"), "b"):
            raise NasError("first")
        assert claim_of(database, "db01") is not None
    freed = database.head().contents.vms["db01"]
    assert (freed.claim, freed.status, freed.failures) == (None, State.BACKUP_NECESSARY, 1)


def test_after_an_interruption_the_end_of_the_session_frees_the_vm(database: Database) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        database.session("test") as session,
        holding(session, start(), "look"),
    ):
        raise KeyboardInterrupt
    freed = database.head().contents.vms["web01"]
    assert (freed.claim, freed.leftovers) == (None, True)


def expired(database: Database, session_id: str) -> None:
    database.commit_once(
        lambda contents: expiry.expire(contents, [session_id], "silent", WHEN), "expire", "other"
    )


def test_a_displaced_session_is_told_and_commits_nothing(database: Database) -> None:
    with database.session("test") as session:
        with contextlib.suppress(LockLostError), holding(session, start(), "look") as held:
            expired(database, session.id)
            number = database.head().generation
            with pytest.raises(LockLostError):
                held.check()
            held.check()
        assert database.head().generation == number


def test_a_frequent_check_asks_the_database_as_often_as_the_heart_beats(
    database: Database, clock: StillClock
) -> None:
    with (
        contextlib.suppress(LockLostError),
        database.session("test") as session,
        holding(session, start(), "look") as held,
    ):
        expired(database, session.id)
        held.check_often()
        clock.sleep(1.01 * session.lease_seconds / BEATS_PER_LEASE)
        with pytest.raises(LockLostError):
            held.check_often()
        held.check()


def test_a_vm_that_somebody_holds_cannot_be_claimed(database: Database) -> None:
    with (
        database.session("one") as one,
        database.session("other") as other,
        holding(one, start(), "look") as held,
    ):
        second = holding(other, start(), "look")
        with pytest.raises(LockedError):
            second.__enter__()
        assert claim_of(database) == held.claim
