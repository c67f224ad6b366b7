"""Who is dead, how that is known, and what is freed. Time passes only when somebody sleeps."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from shared.host.errors import LockedError
from shared.host.host_identity import HostIdentity
from shared.host.process_identity import ProcessIdentity
from shared.state.rules import claims, expiry
from shared.state.sessions import deaths, recovery, sweeping
from shared.state.sessions.heartbeat import BEATS_PER_LEASE, read_beat
from shared.state.sessions.session import Session, session_record
from shared.state.states import State
from shared.state.store.create import create
from shared.state.store.database import Database
from shared.state.store.lease import LEASE_FRACTION
from shared.state.store.opening import open_database
from tests.unit.state.builders import HERE, WHEN, BusyClock, StillClock, session, vm

LEASE = 100.0
MYSELF = ProcessIdentity.of(os.getpid())


@pytest.fixture
def database(tmp_path: Path) -> Database:
    (tmp_path / "nas").mkdir()
    made = create(tmp_path / "nas" / "vmstate", HERE, StillClock(), LEASE)
    made.commit_once(
        lambda contents: contents.with_vm(vm("web01", State.BACKUP_NECESSARY)), "add", "test"
    )
    return made


@pytest.fixture
def holder(database: Database) -> Session:
    """A session that claimed a VM and will show no more heartbeat."""
    crashed = database.session("backup")
    crashed.heartbeat.beat()
    crashed.commit(
        lambda contents: claims.grant(contents, "web01", crashed.id, "backup", WHEN), "claim"
    )
    return crashed


def seen_by(database: Database, clock: StillClock, identity: HostIdentity = HERE) -> Database:
    """The same database in another process."""
    return open_database(database.root, identity, clock)


class TestProof:
    def row(self, host: HostIdentity = HERE, process: ProcessIdentity | None = MYSELF):
        assert process is not None
        return session_record("s", "backup", host, process)

    def test_a_process_that_runs_is_alive(self) -> None:
        assert deaths.proven_dead(self.row(), HERE) is None

    def test_a_process_that_is_gone_is_dead(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", "pass"])
        gone = ProcessIdentity(child.pid, 1.0)
        child.wait()
        assert (
            deaths.proven_dead(self.row(process=gone), HERE) == f"its process {child.pid} is gone"
        )

    def test_a_later_process_of_the_same_number_is_another_one(self) -> None:
        assert MYSELF is not None
        ticks, _, space = MYSELF.born.partition("@")
        earlier = replace(MYSELF, born=f"{int(ticks) - 6000}@{space}")
        assert deaths.proven_dead(self.row(process=earlier), HERE) is not None

    def test_a_step_of_the_wall_clock_kills_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The machine's clock was set an hour back since the session began.

        Psutil now says that everything started later.
        """
        row = self.row()
        create_time = psutil.Process.create_time
        monkeypatch.setattr(
            psutil.Process, "create_time", lambda process: create_time(process) + 3600
        )
        assert deaths.proven_dead(row, HERE) is None

    def test_a_row_of_an_older_program_is_no_proof_by_its_wall_clock(self) -> None:
        assert MYSELF is not None
        assert (
            deaths.proven_dead(
                self.row(process=replace(MYSELF, started=MYSELF.started - 3600, born="")), HERE
            )
            is None
        )
        gone = ProcessIdentity(
            2**22 + 1, MYSELF.started
        )  # above the highest number that Linux gives
        assert deaths.proven_dead(self.row(process=gone), HERE) is not None

    def test_of_another_boot_nothing_is_proven(self) -> None:
        """Neither is the process looked for: this may be a full copy of a machine that works."""
        row = self.row(replace(HERE, boot="before"), ProcessIdentity(2**22 + 1, 1.0))
        assert deaths.proven_dead(row, HERE) is None
        assert deaths.of_another_boot(row, HERE)

    def test_a_moment_of_boot_by_the_wall_clock_is_no_proof_of_a_restart(self) -> None:
        """Older programs noted one where the kernel has no boot id; it moves with the clock."""
        for boot in ("1795000000", ""):
            row = self.row(replace(HERE, boot=boot), ProcessIdentity(2**22 + 1, 1.0))
            assert deaths.proven_dead(row, HERE) is None
            assert not deaths.of_another_boot(row, HERE)

    @pytest.mark.parametrize(
        "difference",
        [
            {"machine": "other"},
            {"machine": ""},
            {"hostname": "other"},
            {"space": "container"},
            {"node": "other"},
        ],
    )
    def test_nothing_is_proven_about_another_machine(self, difference: dict[str, str]) -> None:
        """Another node on what says it is this machine: its disk was cloned, machine id and all."""
        host = replace(HERE, boot="before", **difference)
        assert deaths.proven_dead(self.row(host, ProcessIdentity(2**30, 1.0)), HERE) is None

    def test_what_is_no_process_number_proves_nothing(self) -> None:
        for pid in (0, -1, 2**40):
            assert deaths.proven_dead(self.row(process=ProcessIdentity(pid, 1.0)), HERE) is None

    def test_two_machines_that_do_not_know_who_they_are_prove_nothing(self) -> None:
        nameless = replace(HERE, machine="")
        assert deaths.proven_dead(self.row(nameless, ProcessIdentity(2**30, 1.0)), nameless) is None


class TestWatching:
    def test_a_session_that_is_silent_for_the_lease_time_is_dead(
        self, database: Database, holder: Session
    ) -> None:
        clock = BusyClock()
        here = seen_by(database, clock)
        dead = deaths.watch_silent(here, deaths.live_sessions(here.head().contents), LEASE)
        assert [grave.session.id for grave in dead] == [holder.id]
        assert LEASE <= sum(clock.slept) <= LEASE + LEASE / BEATS_PER_LEASE

    def test_one_beat_is_enough_to_be_alive_and_ends_the_watch(
        self, database: Database, holder: Session
    ) -> None:
        clock = BusyClock(lambda count: holder.heartbeat.beat() if count == 5 else None)
        here = seen_by(database, clock)
        assert deaths.watch_silent(here, deaths.live_sessions(here.head().contents), LEASE) == []
        assert len(clock.slept) == 5

    def test_a_session_without_a_heartbeat_file_is_watched_like_any_other(
        self, database: Database, holder: Session
    ) -> None:
        os.unlink(database.root / "node" / holder.id)
        here = seen_by(database, BusyClock())
        assert (
            len(deaths.watch_silent(here, deaths.live_sessions(here.head().contents), LEASE)) == 1
        )

    def test_a_nas_that_hangs_makes_nobody_dead(self, database: Database, holder: Session) -> None:
        """Between each two looks the watcher was stopped for an hour.

        It saw no silence, and gives up in bounded time.
        """

        def hang(_: int) -> None:
            clock.seconds += 3600

        clock = BusyClock(hang)
        here = seen_by(database, clock)
        assert deaths.watch_silent(here, deaths.live_sessions(here.head().contents), LEASE) == []
        assert len(clock.slept) < 5

    def test_a_heartbeat_that_cannot_be_read_is_no_silence(
        self, database: Database, holder: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(deaths, "read_beat", refuse)
        here = seen_by(database, BusyClock())
        assert deaths.watch_silent(here, deaths.live_sessions(here.head().contents), LEASE) == []


class TestExpiry:
    def test_what_the_dead_held_is_free_in_one_commit(
        self, database: Database, holder: Session
    ) -> None:
        before = database.head()
        rows = deaths.live_sessions(before.contents)
        assert recovery.expire(database, [deaths.Dead(rows[0], "silent")], "database")
        after = database.head()
        assert after.generation == before.generation + 1
        record = after.contents.vms["web01"]
        assert (record.status, record.claim, record.leftovers) == (
            State.BACKUP_NECESSARY,
            None,
            True,
        )
        assert "silent" in record.last_error
        assert not (database.root / "node" / holder.id).exists()

    def test_nobody_dead_is_no_commit(self, database: Database) -> None:
        before = database.head()
        assert recovery.expire(database, [], "database") == []
        assert database.head() == before

    @pytest.mark.broad
    def test_an_id_that_came_from_the_nas_is_never_a_path(
        self, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        precious = tmp_path / "precious"
        planted = [
            str(precious),
            "../../precious",
            "..",
            ".",
            "",
            "a/b",
            "x\0",
            ".hidden",
            "n" * 300,
        ]
        for identifier in planted:
            precious.write_text("of the host")
            row = session(
                identifier,
                machine=HERE.machine,
                hostname="alpha",
                space="space",
                boot="boot",
                pid=2**22 + 1,
            )
            database.commit_once(
                lambda contents, row=row: contents.with_session(row), "planted", "test"
            )
            dead = deaths.find_proven(database, database.head().contents)
            assert [grave.session.id for grave in dead] == [identifier]
            recovery.expire(database, dead, "database")
            assert database.head().contents.sessions[identifier].state == "expired", (
                "what it held is free all the same"
            )
            assert precious.exists()
            assert f"{identifier!r} is no id of a session" in caplog.text
            assert read_beat(database.root / "node", identifier) is None
        assert (database.root / "node").is_dir()

    def test_a_host_that_still_beats_is_not_recovered(self) -> None:
        recovery.require_silent({}, "alpha")
        with pytest.raises(LockedError, match=r"alpha still shows heartbeats: alpha\.1"):
            recovery.require_silent({"alpha.1": session("alpha.1")}, "alpha")


class TestLease:
    MARKER = b"filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=t\nduration=20\nstart=1\n"

    def test_no_lease_is_the_usual_case_and_costs_no_wait(self, database: Database) -> None:
        clock = BusyClock()
        assert not recovery.recover_lease(seen_by(database, clock))
        assert clock.slept == []

    @pytest.mark.parametrize(
        "marker", [MARKER, b"", b"of a tool of version 1.0"], ids=["lease", "empty", "foreign"]
    )
    def test_a_marker_that_nobody_touches_is_broken_after_its_lease_time(
        self, database: Database, marker: bytes
    ) -> None:
        (database.root / "vmtool-dblock").write_bytes(marker)
        clock = BusyClock()
        assert recovery.recover_lease(seen_by(database, clock))
        assert not (database.root / "vmtool-dblock").exists()
        assert sum(clock.slept) >= LEASE * LEASE_FRACTION
        assert os.listdir(database.root / "tmp") == []

    def test_a_marker_whose_holder_beats_stays(self, database: Database) -> None:
        path = database.root / "vmtool-dblock"
        path.write_bytes(self.MARKER)
        clock = BusyClock(lambda count: os.utime(path, (count, count)))
        assert not recovery.recover_lease(seen_by(database, clock))
        assert path.read_bytes() == self.MARKER

    def test_a_new_holder_of_the_last_moment_keeps_it(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = database.root / "vmtool-dblock"
        path.write_bytes(self.MARKER)
        fresh = self.MARKER.replace(b"token=t", b"token=u")
        here = seen_by(database, BusyClock())
        run = here.files.run

        def late(steps: object) -> object:
            if getattr(steps, "__name__", "") == "break_lease":
                path.write_bytes(fresh)
            return run(steps)

        monkeypatch.setattr(here.files, "run", late)
        assert not recovery.recover_lease(here)
        assert path.read_bytes() == fresh


class TestSweep:
    def test_only_what_is_old_or_over_goes(self, database: Database, holder: Session) -> None:
        root, old = database.root, 1_000_000
        names = {
            "tmp/new": False,
            "tmp/old": True,
            "node/unknown-old": True,
            "node/unknown-new": False,
        }
        for name in names:
            (root / name).touch()
            if "old" in name:
                os.utime(root / name, (old, old))
        prepared = root / "tmp" / "prepared"
        prepared.mkdir()
        (prepared / "snapshot").touch()
        os.utime(prepared, (old, old))
        os.utime(root / "node" / holder.id, (old, old))
        swept = sweeping.sweep(database, database.head().contents)
        assert sorted(swept) == ["old", "prepared", "unknown-old"]
        assert {name: not (root / name).exists() for name in names} == names
        assert (root / "node" / holder.id).exists(), "a live session's heartbeat stays, however old"

    def test_the_heartbeat_of_a_session_that_is_over_goes_at_once(
        self, database: Database, holder: Session
    ) -> None:
        database.commit_once(
            lambda contents: expiry.expire(contents, [holder.id], "", WHEN), "expire", "test"
        )
        assert sweeping.sweep(database, database.head().contents) == [holder.id]

    def test_what_filelock_leaves_of_a_take_over_goes_when_it_is_old(
        self, database: Database
    ) -> None:
        names = [
            "vmtool-dblock.break.4711.0f",
            "vmtool-dblock.restore.4711.0f",
            "vmtool-dblock.1.0",
            "vmtool-dblock.break.4712.0f",
        ]
        for name in names:
            (database.root / name).touch()
        for name in names[:3]:
            os.utime(database.root / name, (1, 1))
        assert sorted(sweeping.sweep(database, database.head().contents)) == names[:2]
        assert (database.root / "vmtool-dblock.1.0").exists()

    def test_a_symbolic_link_is_removed_and_what_it_points_to_is_not(
        self, database: Database, tmp_path: Path
    ) -> None:
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "snapshot").touch()
        link = database.root / "tmp" / "link"
        link.symlink_to(tmp_path / "precious")
        os.utime(link, (1, 1), follow_symlinks=False)
        assert sweeping.sweep(database, database.head().contents) == ["link"]
        assert (tmp_path / "precious" / "snapshot").exists()

    @pytest.mark.broad
    def test_write_tests_of_probes_that_were_killed_go_when_they_are_a_day_old(
        self, database: Database
    ) -> None:
        names = [
            ".vmbackup-write-test.0f0f",
            ".vmbackup-write-test.1e1e",
            ".vmbackup-something-else",
        ]
        for name in names:
            (database.root / name).touch()
        os.utime(database.root / names[0], (1, 1))
        os.utime(database.root / names[2], (1, 1))
        assert sweeping.sweep(database, database.head().contents) == [names[0]]
        assert not (database.root / names[0]).exists()
        assert (database.root / names[1]).exists()
