"""Commands judge a session of another boot of this machine as workers do: by three heartbeats."""

import pytest

from shared.host.errors import ExitCode
from shared.state.sessions.session import Session
from tests.unit.coordinator.conftest import Operator, fall_silent
from tests.unit.coordinator.test_locks import locks


@pytest.fixture
def web(site_with_database: Operator) -> Operator:
    site_with_database.add_vms("web")
    return site_with_database


@pytest.fixture
def silent(web: Operator) -> Session:
    """It was there before the machine was restarted."""
    session = web.session(boot="before").__enter__()
    web.claim(session, "web", "archive")
    fall_silent(session)
    return session


@pytest.fixture
def living(web: Operator):
    """It is at work on a full copy of this machine."""
    with web.session(boot="that of the copy") as session:
        web.claim(session, "web", "archive")
        yield session


def test_list_tells_after_three_heartbeats(web: Operator, silent: Session) -> None:
    found = locks(web)[silent.id]
    assert (found["state"], "--watch 0 finds out" in found["why"]) == ("unknown", True)
    found = locks(web, "--watch", "0.1")[silent.id]
    assert (found["state"], "of watching" in found["why"]) == ("unknown", True)
    found = locks(web, "--watch", "0.4")[silent.id]
    assert (found["state"], "was restarted" in found["why"]) == ("dead", True)


def test_list_sees_that_a_copy_lives(web: Operator, living: Session) -> None:
    assert locks(web)[living.id]["state"] == "unknown"
    assert locks(web, "--watch", "0.4")[living.id]["state"] == "live"


@pytest.mark.parametrize("words", [("break", "web"), ("recover",)])
def test_what_the_copy_holds_is_not_freed(
    web: Operator, living: Session, words: tuple[str, ...]
) -> None:
    assert web.lock(*words).exit_code == ExitCode.LOCKED
    assert web.record("web").claim is not None


@pytest.mark.parametrize("words", [("break", "web"), ("recover",)])
def test_what_is_left_of_before_the_restart_is_freed(
    web: Operator, silent: Session, words: tuple[str, ...]
) -> None:
    assert web.lock(*words).exit_code == ExitCode.DONE
    assert web.record("web").claim is None


def test_archive_goes_on_after_a_restart(web: Operator, silent: Session) -> None:
    result = web.admin("archive", "web")
    assert result.exit_code == ExitCode.DONE, result.output
    assert "are watched for" in result.stderr


def test_archive_leaves_alone_what_the_copy_archives(web: Operator, living: Session) -> None:
    result = web.admin("archive", "web")
    assert (result.exit_code, "the machine id of this one" in result.stderr) == (11, True)
    assert web.record("web").claim is not None


def test_doctor_says_that_it_is_one_of_two_things(web: Operator, silent: Session) -> None:
    said = web.admin("doctor").stdout
    assert f"session {silent.id} is of an earlier boot of this machine, or of a full copy" in said
