"""The database and its sessions on a real directory: what a worker sees of the protocol."""

import errno
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from shared.host.errors import (
    DatabaseDamagedError,
    LockedError,
    LockLostError,
    NasError,
    NoDatabaseError,
    NodeConflictError,
)
from shared.host.signals import EndedError
from shared.state.contents import Contents
from shared.state.rules import backup, claims, expiry
from shared.state.rules.sightings import Sighting, apply_events, sight
from shared.state.states import Event, State
from shared.state.store import protocol
from shared.state.store.database import Database
from shared.state.store.layout import generation_name
from shared.state.store.opening import open_database
from shared.state.store.state_files import StateFiles
from tests.unit.state.builders import HERE, WHEN, StillClock, copy, vm

BETA = replace(HERE, node="beta", hostname="beta", machine="machine-beta")


def elsewhere(database: Database) -> Database:
    """The same database as another host sees it."""
    return open_database(database.root, BETA, StillClock())


def add(key: str, status: State = State.BACKUP_NECESSARY):
    """A change that adds a VM."""
    return lambda contents: contents.with_vm(vm(key, status))


class TestCommits:
    def test_a_commit_is_seen_by_others_and_in_the_view(self, database: Database) -> None:
        database.commit_once(add("web01"), "add", "test")
        assert set(elsewhere(database).head().contents.vms) == {"web01"}
        assert (database.root / "vmtool-statedb").read_text() == "web01:BACKUP_NECESSARY\n"

    @pytest.mark.parametrize(
        ("number", "left"),
        [(errno.EINVAL, True), (errno.EACCES, True), (errno.ENOSPC, False), (errno.EROFS, False)],
    )
    def test_a_view_that_the_nas_refuses_for_a_while_is_left_to_the_next_tick(
        self,
        database: Database,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        number: int,
        left: bool,
    ) -> None:
        """The view is derived: a tick goes on without it, unless the NAS is full or gone."""

        def refuse(*_: object) -> None:
            raise OSError(number, os.strerror(number), str(database.root / "vmtool-statedb"))

        (database.root / "vmtool-statedb").unlink()
        monkeypatch.setattr(StateFiles, "replace_view", refuse)
        if left:
            database.renew_view()
            assert "vmtool-statedb is behind" in caplog.text
        else:
            with pytest.raises(NasError):
                database.renew_view()

    def test_a_change_that_changes_nothing_commits_nothing(self, database: Database) -> None:
        before = database.head()
        assert database.commit_once(lambda contents: contents, "nothing", "test") == before
        assert database.head() == before

    def test_the_host_joins_with_its_first_commit_and_another_of_its_name_is_refused(
        self, database: Database
    ) -> None:
        assert database.head().contents.nodes == {}
        database.commit_once(add("web01"), "add", "test")
        assert database.head().contents.nodes["alpha"].machine == HERE.machine
        twin = open_database(database.root, replace(HERE, machine="another"), StillClock())
        with pytest.raises(NodeConflictError):
            twin.head()
        with pytest.raises(NodeConflictError):
            twin.commit_once(add("web02"), "add", "test")

    @pytest.mark.broad
    def test_a_view_that_cannot_be_written_does_not_make_a_commit_fail(
        self, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.EACCES, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", refuse)
            head = database.commit_once(add("web01"), "add", "test")
        assert set(head.contents.vms) == {"web01"}
        assert "vmtool-statedb is behind" in caplog.text
        database.publish_view()
        assert (database.root / "vmtool-statedb").read_text() == "web01:BACKUP_NECESSARY\n"

    def test_an_edited_view_is_reported(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        database.commit_once(add("web01"), "add", "test")
        (database.root / "vmtool-statedb").write_text("web01:CLEAN\n")
        assert database.publish_view()
        assert "adopt" in caplog.text


class TestHistory:
    def test_a_history_that_went_back_is_an_alarm(self, database: Database) -> None:
        database.commit_once(add("web01"), "add", "test")
        (database.root / "gen" / generation_name(2)).unlink()
        with pytest.raises(DatabaseDamagedError, match="this host has seen 2"):
            database.head()

    def test_a_generation_that_was_only_read_may_be_lost_with_the_power_of_the_nas(
        self, database: Database
    ) -> None:
        """It was read before its writer had brought it to the disk.

        The one before it is on the disk, and is remembered.
        """
        elsewhere(database).commit_once(add("web01"), "add", "test")
        elsewhere(database).commit_once(add("web02"), "add", "test")
        assert database.head().generation == 3
        (database.root / "gen" / generation_name(3)).unlink()
        assert database.head().generation == 2
        elsewhere(database).commit_once(add("web03"), "add", "test")
        assert set(database.head().contents.vms) == {"web01", "web03"}
        for lost in (3, 2):
            (database.root / "gen" / generation_name(lost)).unlink()
        with pytest.raises(DatabaseDamagedError, match="this host has seen 2"):
            database.head()

    def test_another_history_of_the_same_length_is_an_alarm(
        self, database: Database, tmp_path: Path
    ) -> None:
        """The NAS was restored from a backup, and others have committed since.

        Another process of this host notices.
        """
        notes = tmp_path / "notes"
        remembering = open_database(database.root, HERE, StillClock(), notes)
        remembering.commit_once(add("web01"), "add", "test")
        (database.root / "gen" / generation_name(2)).unlink()
        elsewhere(database).commit_once(add("db01"), "add", "test")
        with pytest.raises(DatabaseDamagedError, match="rolled back or replaced"):
            open_database(database.root, HERE, StillClock(), notes).head()
        elsewhere(database).commit_once(add("db02"), "add", "test")
        with pytest.raises(DatabaseDamagedError, match="rolled back or replaced"):
            open_database(database.root, HERE, StillClock(), notes).head()

    def test_a_note_that_cannot_be_read_or_written_is_done_without(
        self, database: Database, tmp_path: Path
    ) -> None:
        notes = tmp_path / "notes"
        notes.mkdir()
        (notes / f"seen-{database.version.repository}.json").mkdir()
        open_database(database.root, HERE, StillClock(), notes).commit_once(
            add("web01"), "add", "test"
        )

    def test_a_damaged_generation_is_named_and_nothing_is_changed(self, database: Database) -> None:
        database.commit_once(add("web01"), "add", "test")
        path = database.root / "gen" / generation_name(2)
        damaged = path.read_bytes().replace(b"web01", b"web02")
        path.write_bytes(damaged)
        with pytest.raises(DatabaseDamagedError, match="generation 2"):
            elsewhere(database).commit_once(add("web03"), "add", "test")
        assert path.read_bytes() == damaged
        assert not (database.root / "gen" / generation_name(3)).exists()

    def test_no_database_is_not_an_empty_one(self, tmp_path: Path) -> None:
        with pytest.raises(NoDatabaseError):
            open_database(tmp_path / "vmstate", HERE, StillClock())


class TestSessions:
    def test_what_a_session_holds_is_free_when_it_ends(self, database: Database) -> None:
        database.commit_once(add("web01"), "add", "test")
        session = database.session("backup")

        def crash() -> None:
            with session:
                session.commit(
                    lambda contents: claims.grant(contents, "web01", session.id, "backup", WHEN),
                    "claim",
                )
                assert os.listdir(database.root / "node") == [session.id]
                raise ZeroDivisionError("a bug")

        with pytest.raises(ZeroDivisionError):
            crash()
        contents = database.head().contents
        assert (contents.vms["web01"].status, contents.vms["web01"].claim) == (
            State.BACKUP_NECESSARY,
            None,
        )
        assert contents.vms["web01"].last_error == "its worker stopped: a bug"
        assert contents.sessions[session.id].state == "ended"
        assert os.listdir(database.root / "node") == []

    @pytest.mark.parametrize(
        ("error", "failures", "reason"),
        [
            (KeyboardInterrupt(), 0, "its worker stopped: it was interrupted from the keyboard"),
            (EndedError(signal.SIGTERM), 0, "its worker stopped: it was ended by SIGTERM"),
            (ZeroDivisionError(), 1, "its worker stopped: ZeroDivisionError()"),
        ],
    )
    def test_an_interrupt_is_no_failure_and_each_end_has_a_reason(
        self, database: Database, error: BaseException, failures: int, reason: str
    ) -> None:
        database.commit_once(add("web01"), "add", "test")
        session = database.session("backup")

        def end() -> None:
            with session:
                session.commit(
                    lambda contents: claims.grant(contents, "web01", session.id, "backup", WHEN),
                    "claim",
                )
                raise error

        with pytest.raises(type(error)):
            end()
        record = database.head().contents.vms["web01"]
        assert (record.status, record.claim) == (State.BACKUP_NECESSARY, None)
        assert (record.failures, record.last_error) == (failures, reason)

    def test_a_session_that_commits_nothing_leaves_no_row(self, database: Database) -> None:
        before = database.head()
        with database.session("backup"):
            pass
        assert database.head() == before

    def test_a_first_commit_that_is_refused_does_not_end_the_session(
        self, database: Database
    ) -> None:
        """Another worker was faster with the first VM of the queue.

        The second one is still to be had.
        """
        database.commit_once(lambda contents: add("web02")(add("web01")(contents)), "add", "test")
        with database.session("backup") as first, elsewhere(database).session("backup") as second:
            first.commit(
                lambda contents: claims.grant(contents, "web01", first.id, "backup", WHEN), "claim"
            )
            with pytest.raises(LockedError):
                second.commit(
                    lambda contents: claims.grant(contents, "web01", second.id, "backup", WHEN),
                    "claim",
                )
            second.commit(lambda contents: contents, "nothing")
            head = second.commit(
                lambda contents: claims.grant(contents, "web02", second.id, "backup", WHEN),
                "claim",
            )
            claim = head.contents.vms["web02"].claim
            assert claim is not None
            assert claim.session == second.id

    def test_an_expired_session_commits_nothing_any_more(self, database: Database) -> None:
        database.commit_once(add("web01"), "add", "test")
        with database.session("backup") as session:
            head = session.commit(
                lambda contents: claims.grant(contents, "web01", session.id, "backup", WHEN),
                "claim",
            )
            own = head.contents.vms["web01"].claim
            assert own is not None
            elsewhere(database).commit_once(
                lambda contents: expiry.expire(contents, [session.id], "silent", WHEN),
                "expire",
                "database",
            )
            with pytest.raises(LockLostError):
                session.commit(
                    lambda contents: backup.intend(contents, "web01", own, copy()), "publish"
                )
            with pytest.raises(LockLostError):
                session.commit(add("web02"), "anything else")
        contents = database.head().contents
        assert contents.sessions[session.id].state == "expired"
        assert contents.vms["web01"].status == State.BACKUP_NECESSARY
        assert "web02" not in contents.vms

    def test_an_expired_session_that_was_forgotten_still_commits_nothing(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "SESSION_MEMORY", 1)
        with database.session("backup") as session:
            session.commit(add("web01"), "add")
            other = elsewhere(database)
            other.commit_once(
                lambda contents: expiry.expire(contents, [session.id], "silent", WHEN),
                "expire",
                "database",
            )
            for number in range(3):
                other.commit_once(add(f"db{number}"), "add", "test")
            assert session.id not in other.head().contents.sessions
            with pytest.raises(LockLostError):
                session.commit(add("web02"), "too late")

    def test_a_session_without_a_heartbeat_stops_itself(
        self, database: Database, clock: StillClock
    ) -> None:
        with database.session("backup") as session:
            clock.seconds += database.version.lease_seconds
            with pytest.raises(LockLostError, match="heartbeat"):
                session.commit(add("web01"), "add")
        assert "web01" not in database.head().contents.vms

    def test_a_commit_that_failed_is_not_taken_for_the_next_one(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first commit took place, and the session was told that it failed."""

        def refuse(*_: object) -> None:
            raise OSError(errno.EDQUOT, "quota")

        with database.session("backup") as session:
            with monkeypatch.context() as patch:
                patch.setattr(StateFiles, "remove_temporary", refuse)
                with pytest.raises(NasError):
                    session.commit(add("web01"), "add")
            head = session.commit(add("web02"), "add")
        assert set(head.contents.vms) == {"web01", "web02"}

    def test_an_error_that_passes_costs_a_repetition_and_no_more(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The reply to a commit is lost and the server says EIO for a moment.

        The transaction is repeated, and applied once.
        """
        remove, failures = StateFiles.remove_temporary, iter([OSError(errno.EIO, "lost reply")])

        def falter(*arguments: object) -> object:
            for failure in failures:
                raise failure
            return remove(*arguments)

        monkeypatch.setattr(StateFiles, "remove_temporary", falter)
        before = database.head().generation
        head = database.commit_once(add("web01"), "add", "test")
        assert (head.generation, set(head.contents.vms)) == (before + 1, {"web01"})

    @pytest.mark.broad
    def test_sessions_of_many_threads_lose_nothing(self, database: Database) -> None:
        def work(name: str) -> None:
            for number in range(5):
                elsewhere(database).commit_once(add(f"{name}{number}"), "add", name)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, "abcd"))
        assert len(database.head().contents.vms) == 20


def test_a_tick_that_finds_nothing_commits_nothing(database: Database) -> None:
    listed = [Sighting("u1", "web01", "web01")]
    database.commit_once(
        lambda contents: sight(contents, "alpha", listed, WHEN), "vmfind", "vmfind"
    )
    before = database.head()
    database.commit_once(
        lambda contents: sight(contents, "alpha", listed, "later"), "vmfind", "vmfind"
    )

    def notify(contents: Contents) -> Contents:
        return apply_events(contents, {"u1": (Event.CHANGED,), "unknown": (Event.SEEN_RUNNING,)})

    database.commit_once(notify, "notifier", "notifier")
    assert database.head() == before
