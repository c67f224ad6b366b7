"""vmbackup-lock: who holds what, breaking one lock, recovering a crashed host."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.lock import program as lock_program
from shared.copies.names import partial_name
from shared.host.errors import ExitCode, LockLostError
from shared.state.contents import UnusableRow
from shared.state.host_records import NodeRecord, SessionRecord
from shared.state.records import Power
from shared.state.rules import backup, claims, hosts, sightings
from shared.state.rules.sightings import Sighting
from shared.state.sessions import recovery
from shared.state.sessions.deaths import Dead
from shared.state.sessions.session import Session
from shared.state.states import State
from tests.unit.coordinator.conftest import WHEN, Operator, copy, fall_silent, gone_process

ELSEWHERE = {"machine": "f" * 32, "hostname": "elsewhere"}


@pytest.fixture
def web(site_with_database: Operator) -> Operator:
    site_with_database.add_vms("web")
    return site_with_database


def locks(operator: Operator, *arguments: str) -> dict[str, dict]:
    return {
        lock["name"]: lock
        for lock in operator.json("list", *arguments, program=lock_program)["locks"]
    }


def marker(operator: Operator, pid: int, hostname: str) -> None:
    (operator.vmstate / "vmtool-dblock").write_text(
        f"filelock/2\npid={pid}\nhost={hostname}\ntoken=abc\n", encoding="utf-8"
    )


def plant(path: Path, kind: str) -> None:
    """Something that is no file, where one should be."""
    path.unlink(missing_ok=True)
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        os.mknod(path, 0o20666, os.makedev(1, 5))
    else:
        path.symlink_to("/etc/hostname")


class TestList:
    def test_nothing_is_locked(self, web: Operator) -> None:
        assert "Nothing is locked" in web.lock("list").stdout

    def test_the_contract_of_its_json(self, web: Operator) -> None:
        with web.session() as session:
            session.doing.vm, session.doing.phase, session.doing.percent = "web", "export", 50.0
            web.claim(session, "web")
            session.heartbeat.beat()
            found = locks(web)
        contract = {
            "name",
            "kind",
            "node",
            "host",
            "pid",
            "vm",
            "held_seconds",
            "heartbeat_seconds",
            "lease_seconds",
            "state",
        }
        assert all(contract <= lock.keys() for lock in found.values())
        claim, own = found["web"], found[session.id]
        assert (claim["kind"], own["kind"]) == ("claim", "session")
        assert (claim["state"], own["state"]) == ("live", "live")
        assert (claim["node"], claim["pid"], claim["vm"], claim["percent"]) == (
            "alpha",
            os.getpid(),
            "web",
            50.0,
        )
        assert claim["heartbeat_seconds"] < claim["lease_seconds"] == 1.0

    def test_as_text(self, web: Operator) -> None:
        with web.session() as session:
            session.doing.vm, session.doing.phase, session.doing.percent = "web", "export", 50.0
            web.claim(session, "web")
            session.heartbeat.beat()
            output = web.lock("list").stdout
        assert "backup export 50 %" in output
        assert "live" in output

    def test_a_dead_process_of_this_machine_is_dead_by_proof(self, web: Operator) -> None:
        session = web.dead_session()
        web.claim(session, "web")
        found = locks(web)
        assert (found["web"]["state"], found[session.id]["state"]) == ("dead", "dead")

    def test_a_silent_session_of_another_machine_is_unknown_until_it_is_watched(
        self, web: Operator
    ) -> None:
        session = self._elsewhere(web)
        fall_silent(session)
        path = web.vmstate / "node" / session.id
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3600))
        assert locks(web)["web"]["state"] == "unknown"
        assert locks(web, "--watch", "1.1")["web"]["state"] == "expired"
        assert locks(web, "--watch", "0.2")["web"]["state"] == "unknown"

    def test_watching_tells_that_a_session_lives_although_its_clock_is_wrong(
        self, web: Operator
    ) -> None:
        session = self._elsewhere(web)
        path = web.vmstate / "node" / session.id
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 3600))
        assert locks(web, "--watch", "0.5")["web"]["state"] == "live"
        session.__exit__(None, None, None)

    def test_a_heartbeat_from_the_future_has_no_age(self, web: Operator) -> None:
        session = self._elsewhere(web)
        fall_silent(session)
        path = web.vmstate / "node" / session.id
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 3600))
        assert (locks(web)["web"]["heartbeat_seconds"], locks(web)["web"]["state"]) == (
            None,
            "unknown",
        )

    def test_the_lease_on_the_database(self, web: Operator) -> None:
        marker(web, gone_process().pid, os.uname().nodename)
        found = locks(web)["database"]
        assert (found["kind"], found["state"], found["node"], found["host"]) == (
            "database",
            "dead",
            "alpha",
            os.uname().nodename,
        )
        marker(web, 4711, "elsewhere")
        assert locks(web)["database"]["state"] == "live"
        (web.vmstate / "vmtool-dblock").write_bytes(b"\xff garbage")
        assert locks(web)["database"]["pid"] is None

    @pytest.mark.parametrize("kind", ["directory", "pipe", "device", "link"])
    def test_what_is_no_file_in_place_of_the_lease_is_told_and_not_waited_for(
        self, web: Operator, kind: str
    ) -> None:
        self._elsewhere(web)
        plant(web.vmstate / "vmtool-dblock", kind)
        for words in (["list"], ["list", "--json"], ["break", "database"]):
            result = web.lock(*words)
            assert result.exit_code == (ExitCode.NAS if "break" in words else ExitCode.DONE)
            told = result.stdout if "--json" in words else result.stderr
            assert "vmtool-dblock" in told
            assert "find out who put it there" in told
            assert ("claim" in result.stdout) == ("list" in words), "others are shown"

    @staticmethod
    def _elsewhere(web: Operator) -> Session:
        """A session of another machine that has claimed a VM."""
        session = Operator(web.folder, "beta").session(**ELSEWHERE).__enter__()
        web.claim(session, "web")
        return session


class TestShow:
    def test_a_vm_a_session_and_nobody(self, web: Operator) -> None:
        with web.session() as session:
            web.claim(session, "web")
            for name in ("web", session.id):
                output = web.lock("show", name).stdout
                assert session.id in output
                assert str(os.getpid()) in output
                assert "live: its last heartbeat is" in output
            assert web.json("show", "web", program=lock_program)["lock"]["purpose"] == "backup"
        assert web.lock("show", "web").stdout == "web is not locked\n"
        assert web.lock("show", "database").stdout == "database is not locked\n"
        result = web.lock("show", "nobody")
        assert result.exit_code == ExitCode.USAGE
        assert "vmbackup-lock list" in result.stderr


class TestBreak:
    def test_what_is_not_locked_is_done(self, web: Operator) -> None:
        assert web.lock("break", "web").exit_code == ExitCode.DONE

    def test_a_live_holder_is_not_hurt_and_it_is_said_who_it_is(self, web: Operator) -> None:
        with web.session() as session:
            session.doing.vm = "web"
            web.claim(session, "web")
            for name in ("web", session.id):
                result = web.lock("break", name)
                assert result.exit_code == ExitCode.LOCKED
                for part in (session.id, "alpha", str(os.getpid()), "--force"):
                    assert part in result.stderr
            assert web.record("web").claim is not None

    def test_with_force_a_live_holder_of_a_vm_loses_only_that(self, web: Operator) -> None:
        with web.session() as session:
            web.claim(session, "web")
            own = web.record("web").claim
            assert web.lock("break", "web", "--force").exit_code == ExitCode.DONE
            record = web.record("web")
            assert (record.claim, record.status, record.failures) == (
                None,
                State.BACKUP_NECESSARY,
                1,
            )
            assert "broken by hand on alpha" in record.last_error
            assert web.contents.sessions[session.id].state == "live"
            with pytest.raises(LockLostError) as refused:
                claims.held(web.contents, "web", own)
        assert f"broken by hand on alpha ({record.last_error_at})" in refused.value.message

    def test_with_force_a_live_session_is_over(self, web: Operator) -> None:
        with web.session() as session:
            web.claim(session, "web")
            assert web.lock("break", session.id, "--force").exit_code == ExitCode.DONE
            assert web.contents.sessions[session.id].state == "expired"
            record = web.record("web")
            assert (record.claim, record.last_error) == (
                None,
                "its lock was broken by hand on alpha",
            )
            with pytest.raises(LockLostError) as refused:
                session.commit(lambda contents: contents, "go on")
        for part in (session.id, record.last_error, record.last_error_at):
            assert part in refused.value.message
        assert "host" not in refused.value.message

    def test_who_was_taken_for_dead_learns_why_and_where(self, web: Operator) -> None:
        with web.session() as session:
            web.claim(session, "web")
            row = web.contents.sessions[session.id]
            recovery.expire(Operator(web.folder, "beta").database(), [Dead(row, "silent")], "test")
            with pytest.raises(LockLostError) as refused:
                session.commit(lambda contents: contents, "go on")
        assert "the worker died: silent (found on beta, " in refused.value.message

    def test_a_dead_holder_is_freed_without_force(self, web: Operator) -> None:
        session = web.dead_session()
        web.claim(session, "web")
        assert web.lock("break", "web", "--dry-run").exit_code == ExitCode.DONE
        assert web.record("web").claim is not None
        assert web.lock("break", "web").exit_code == ExitCode.DONE
        assert web.record("web").claim is None
        assert not (web.vmstate / "node" / session.id).exists()

    def test_a_silent_holder_is_freed_after_three_heartbeats(self, web: Operator) -> None:
        session = web.session().__enter__()
        web.claim(session, "web")
        fall_silent(session)
        assert web.lock("break", "web").exit_code == ExitCode.DONE
        assert web.record("web").claim is None

    def test_an_intent_to_publish_outlives_the_break(self, web: Operator) -> None:
        with web.session() as session:
            web.claim(session, "web")
            own = web.record("web").claim
            session.commit(lambda contents: backup.intend(contents, "web", own, copy()), "intend")
            assert web.lock("break", "web", "--force").exit_code == ExitCode.DONE
        record = web.record("web")
        assert (record.claim, record.publishing, record.status) == (
            None,
            copy(),
            State.BACKUP_IN_PROGRESS,
        )

    def test_the_lease_of_a_dead_process(self, web: Operator) -> None:
        marker(web, gone_process().pid, os.uname().nodename)
        assert web.lock("break", "database").exit_code == ExitCode.DONE
        assert not (web.vmstate / "vmtool-dblock").exists()

    def test_the_lease_of_a_live_one_only_with_force(self, web: Operator) -> None:
        from filelock import SoftFileLease

        lease = SoftFileLease(
            str(web.vmstate / "vmtool-dblock"), lease_duration=0.2, thread_local=False
        )
        with lease:
            result = web.lock("break", "database")
            assert result.exit_code == ExitCode.LOCKED
            assert web.lock("break", "database", "--force").exit_code == ExitCode.DONE
            assert not (web.vmstate / "vmtool-dblock").exists()

    def test_unknown_names(self, web: Operator) -> None:
        assert web.lock("break", "nobody").exit_code == ExitCode.USAGE


class TestRecover:
    def test_this_host_after_a_crash(self, web: Operator) -> None:
        session = web.dead_session()
        web.claim(session, "web")
        number = web.record("web").claim.number
        (web.nas / "web").mkdir()
        partial = web.nas / "web" / partial_name("20261122T203800Z-1", number, "ova")
        partial.write_bytes(b"half")
        result = web.lock("recover")
        assert result.exit_code == ExitCode.DONE
        assert partial.name in result.stdout
        assert not partial.exists()
        record = web.record("web")
        assert (record.claim, record.status, record.leftovers, record.missing_since) == (
            None,
            State.BACKUP_NECESSARY,
            False,
            None,
        )
        assert not (web.vmstate / "node" / session.id).exists()

    def test_a_dry_run_changes_nothing(self, web: Operator) -> None:
        session = web.dead_session()
        web.claim(session, "web")
        before = web.contents
        result = web.lock("recover", "--dry-run")
        assert result.exit_code == ExitCode.DONE
        assert f"would end session {session.id}" in result.stdout
        assert "would free web" in result.stdout
        assert web.contents == before

    def test_it_says_which_vms_of_another_host_count_as_missing_afterwards(
        self, web: Operator
    ) -> None:
        web.add_vms("far", node="gamma")
        before = web.contents
        for options, changed in ((("--dry-run",), False), ((), True)):
            result = web.lock("recover", "gamma", *options)
            assert result.exit_code == ExitCode.DONE
            assert "its VMs count as missing there until it lists them again: far" in result.stdout
            assert (web.contents != before, web.record("far").missing_since is not None) == (
                changed,
                changed,
            )

    def test_refused_while_the_host_shows_heartbeats_but_what_is_dead_is_freed(
        self, web: Operator
    ) -> None:
        web.add_vms("db")
        dead = web.dead_session()
        web.claim(dead, "db")
        with web.session() as session:
            web.claim(session, "web")
            result = web.lock("recover")
            assert result.exit_code == ExitCode.LOCKED
            assert session.id in result.stderr
            assert web.record("web").claim is not None
            assert web.record("db").claim is None

    def test_another_host_that_is_silent_gives_up_its_vms(self, web: Operator) -> None:
        beta = Operator(web.folder, "beta")
        session = beta.session(**ELSEWHERE).__enter__()
        session.commit(
            lambda contents: sightings.sight(
                contents, "beta", [Sighting("u", "other", "other")], WHEN
            ),
            "seen",
        )
        fall_silent(session)
        assert web.lock("recover", "beta").exit_code == ExitCode.DONE
        assert web.record("other").missing_since is not None
        assert web.record("web").missing_since is None
        web.commit(
            lambda contents: sightings.sight(
                contents, "alpha", [Sighting("u", "other", "other")], WHEN
            )
        )
        assert web.record("other").node == "alpha"

    def test_the_lease_that_the_crashed_host_held(self, web: Operator) -> None:
        beta = Operator(web.folder, "beta")
        beta.commit(
            lambda contents: sightings.sight(
                contents, "beta", [Sighting("u", "other", "other")], WHEN
            ),
            **ELSEWHERE,
        )
        marker(web, 4711, "elsewhere")
        assert web.lock("recover", "beta").exit_code == ExitCode.DONE
        assert not (web.vmstate / "vmtool-dblock").exists()

    def test_an_unknown_host(self, web: Operator) -> None:
        result = web.lock("recover", "nowhere")
        assert result.exit_code == ExitCode.USAGE
        assert "alpha" in result.stderr

    def test_what_is_unfinished_is_finished(self, web: Operator) -> None:
        web.set("web", status=State.ARCHIVED, moving="archive")
        assert "would finish the archive of web" in web.lock("recover", "--dry-run").stdout
        assert web.record("web").moving == "archive"
        assert "finished the archive of web" in web.lock("recover").stdout
        assert web.record("web").moving is None

    def test_what_only_a_worker_of_this_host_can_finish_is_announced(self, web: Operator) -> None:
        web.set("web", power=Power("savestate", "running", 1))
        result = web.lock("recover")
        assert result.exit_code == ExitCode.DONE
        assert "power state of web is finished by the next" in result.stdout
        assert web.record("web").power == Power("savestate", "running", 1)


class TestReplaced:
    @pytest.fixture
    def replaced(self, site_with_database: Operator) -> Operator:
        """This machine has the name of another one that is gone."""
        operator = site_with_database
        operator.commit(
            lambda contents: sightings.sight(
                contents, "alpha", [Sighting("u", "web", "web")], WHEN
            ),
            **ELSEWHERE,
        )
        return operator

    def test_two_machines_of_one_name_are_refused_with_the_cure(self, replaced: Operator) -> None:
        result = replaced.admin("archive", "web")
        assert result.exit_code == ExitCode.FAILURE
        assert "vmbackup-lock recover alpha --replaced" in result.stderr
        assert replaced.lock("recover").exit_code == ExitCode.FAILURE

    def test_the_new_machine_takes_over_the_name(self, replaced: Operator) -> None:
        assert replaced.lock("recover", "alpha", "--replaced").exit_code == ExitCode.DONE
        assert replaced.contents.nodes["alpha"].machine == replaced.site().identity.machine
        assert replaced.admin("archive", "web").exit_code == ExitCode.DONE

    def test_another_user_of_the_same_machine_takes_over_the_name(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        operator.add_vms("web")
        operator.commit(lambda contents: hosts.set_user(contents, "alpha", "12345"))
        assert operator.admin("archive", "web").exit_code == ExitCode.DONE, (
            "operators may be anybody"
        )
        assert operator.lock("recover", "alpha", "--replaced").exit_code == ExitCode.DONE
        assert operator.contents.nodes["alpha"].user == ""

    def test_not_while_the_old_one_lives(self, replaced: Operator) -> None:
        with replaced.session(**ELSEWHERE) as session:
            session.commit(
                lambda contents: contents.with_vm(replace(contents.vms["web"], failures=1)), "alive"
            )
            assert replaced.lock("recover", "--replaced").exit_code == ExitCode.LOCKED

    def test_from_another_host_the_name_is_free_for_the_first_that_comes(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        beta = Operator(operator.folder, "beta")
        beta.commit(
            lambda contents: sightings.sight(contents, "beta", [Sighting("u", "web", "web")], WHEN),
            **ELSEWHERE,
        )
        assert operator.lock("recover", "beta", "--replaced").exit_code == ExitCode.DONE
        assert "beta" not in operator.contents.nodes


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--watch", "0.2"],
        ["show", "web"],
        ["break", "web"],
        ["break", "web", "--force"],
        ["recover", "beta"],
    ],
)
def test_a_session_whose_id_is_a_path_frees_its_lock_and_touches_no_file(
    web: Operator, tmp_path: Path, words: list[str]
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("of the host")
    planted = SessionRecord(
        str(precious),
        1,
        1,
        "live",
        "beta",
        "backup",
        hostname="beta",
        machine="b" * 32,
        boot="b",
        pid=1,
    )
    web.commit(lambda contents: contents.with_session(planted))
    web.set("web", status=State.BACKUP_NECESSARY)
    web.commit(lambda contents: claims.grant(contents, "web", planted.id, "backup", WHEN))
    result = web.lock(*words)
    assert precious.read_text() == "of the host"
    assert result.exit_code == ExitCode.DONE, (result.output, result.exception)
    if words[0] in ("break", "recover"):
        assert web.record("web").claim is None


class TestARowOfASessionThatDoesNotFit:
    @pytest.fixture
    def odd(self, operator: Operator) -> Operator:
        """A database with such a row."""
        operator.create()
        operator.add_vms("web01")
        row = UnusableRow("sessions", "alpha.odd", '{"id": "alpha.odd"}', "a field is missing")
        operator.database().commit_once(
            lambda contents: replace(contents, unusable=(row,)), "odd", "test"
        )
        return operator

    def test_it_is_removed_by_force_only(self, odd: Operator) -> None:
        refused = odd.lock("break", "alpha.odd")
        assert (refused.exit_code, "--force removes the row" in refused.stderr) == (11, True)
        planned = odd.lock("break", "alpha.odd", "--dry-run")
        assert (planned.exit_code, "would remove" in planned.stdout) == (0, True)
        assert [row.key for row in odd.database().head().contents.unusable] == ["alpha.odd"]
        assert odd.lock("break", "alpha.odd", "--force").exit_code == 0
        contents = odd.database().head().contents
        assert (contents.unusable, list(contents.vms)) == ((), ["web01"])
        assert odd.lock("break", "alpha.odd").exit_code == 2

    @pytest.fixture
    def holds(self, odd: Operator) -> Operator:
        """Its session holds a VM."""
        odd.set("web01", status=State.BACKUP_NECESSARY)
        odd.commit(lambda contents: claims.grant(contents, "web01", "alpha.odd", "backup", WHEN))
        return odd

    def test_what_it_holds_is_listed_and_freed_with_it(self, holds: Operator) -> None:
        found = locks(holds)
        assert (found["web01"]["state"], found["alpha.odd"]["state"]) == ("unknown", "unknown")
        assert "does not fit" in holds.lock("show", "alpha.odd").stdout
        assert holds.lock("break", "alpha.odd", "--force").exit_code == 0
        record = holds.record("web01")
        assert (record.claim, record.status, record.leftovers) == (
            None,
            State.BACKUP_NECESSARY,
            True,
        )
        assert "removed by hand on alpha" in record.last_error
        assert holds.admin("archive", "web01").exit_code == 0

    def test_the_vm_alone_is_freed_by_force_only(self, holds: Operator) -> None:
        refused = holds.lock("break", "web01")
        assert (refused.exit_code, "--force" in refused.stderr) == (ExitCode.LOCKED, True)
        assert holds.record("web01").claim is not None
        assert holds.lock("break", "web01", "--force").exit_code == 0
        assert holds.record("web01").claim is None
        assert [row.key for row in holds.contents.unusable] == ["alpha.odd"]

    def test_statedb_check_says_how(self, odd: Operator) -> None:
        assert "vmbackup-lock break SESSION --force" in odd.admin("statedb", "check").output


class TestAClaimWhoseSessionHasNoRow:
    @pytest.fixture
    def rowless(self, web: Operator) -> Operator:
        """A VM held by a session whose row somebody has removed."""
        web.set("web", status=State.BACKUP_NECESSARY)
        web.commit(lambda contents: claims.grant(contents, "web", "alpha.lost", "backup", WHEN))
        return web

    def test_it_is_listed(self, rowless: Operator) -> None:
        found = locks(rowless)
        assert (found["web"]["state"], found["alpha.lost"]["state"]) == ("dead", "dead")
        assert "the next database worker frees it" in rowless.lock("show", "web").stdout
        assert "alpha.lost" in rowless.lock("show", "alpha.lost").stdout

    @pytest.mark.parametrize("name", ["web", "alpha.lost"])
    @pytest.mark.parametrize("options", [(), ("--force",)])
    def test_it_is_broken(self, rowless: Operator, name: str, options: tuple[str, ...]) -> None:
        assert rowless.lock("break", name, "--dry-run").exit_code == ExitCode.DONE
        assert rowless.record("web").claim is not None
        assert rowless.lock("break", name, *options).exit_code == ExitCode.DONE
        record = rowless.record("web")
        assert (record.claim, record.status, record.leftovers) == (
            None,
            State.BACKUP_NECESSARY,
            True,
        )


def test_that_another_host_has_a_vm_too_is_over_when_that_host_is_recovered(
    site_with_database: Operator,
) -> None:
    """It may have no other VM."""
    site_with_database.add_vms("web")
    site_with_database.set("web", also_on="beta")
    site_with_database.commit(lambda contents: contents.with_node(NodeRecord("beta", "m")))
    done = site_with_database.lock("recover", "beta")
    assert done.exit_code == ExitCode.DONE, done.output
    record = site_with_database.contents.vms["web"]
    assert (record.also_on, record.missing_since) == (None, None)
