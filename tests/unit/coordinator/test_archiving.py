"""archive, activate, forget: states and copies move together, from wherever a crash left them."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.copies.copy_files import NasFiles
from shared.host.errors import ExitCode, LockLostError
from shared.state.rules import adoption, archive, claims, expiry
from shared.state.sessions import deaths
from shared.state.states import State
from shared.tasks import archiving
from shared.virtualbox.fingerprint import fingerprint_of
from tests.support.copies import BreakingFiles, PowerCutError, put_copy
from tests.support.simulated import SimulatedHost
from tests.unit.coordinator.conftest import WHEN, Operator, copy, fall_silent

STAMP = "20261122T203800Z-17"
OLDER = "20261121T203800Z-16"


@pytest.fixture
def web(site_with_database: Operator) -> Operator:
    """A VM with two copies."""
    operator = site_with_database
    operator.add_vms("web")
    operator.set("web", status=State.CLEAN, last_copy=copy(STAMP))
    for stamp in (OLDER, STAMP):
        put_copy(operator.nas / "web", stamp, stamp.encode())
    return operator


def stamps(directory: Path) -> list[str]:
    return sorted(path.stem for path in directory.glob("*.ova"))


class TestArchive:
    def test_the_copies_move_and_the_vm_is_archived(self, web: Operator) -> None:
        result = web.admin("archive", "web")
        assert (result.exit_code, result.stdout) == (
            ExitCode.DONE,
            "web is ARCHIVED; copies in place: 2\n",
        )
        assert stamps(web.nas / "archive" / "web") == [OLDER, STAMP]
        assert not (web.nas / "web").exists()
        record = web.record("web")
        assert (record.status, record.moving, record.claim) == (State.ARCHIVED, None, None)

    def test_one_without_any_copy_is_warned_about(self, web: Operator) -> None:
        web.add_vms("new")
        told = web.admin("archive", "new")
        assert (told.exit_code, "there is no copy of new" in told.stderr) == (0, True)
        assert web.admin("archive", "web").stderr == ""

    def test_as_json(self, web: Operator) -> None:
        assert web.json("archive", "web") == {
            "schema": 1,
            "vm": "web",
            "status": "ARCHIVED",
            "copies": [OLDER, STAMP],
            "left_behind": [],
        }

    def test_a_dry_run_shows_what_would_move_and_changes_nothing(self, web: Operator) -> None:
        before = web.contents
        result = web.admin("archive", "web", "--dry-run")
        assert result.exit_code == 0
        assert STAMP in result.stdout
        assert web.contents == before
        assert stamps(web.nas / "web") == [OLDER, STAMP]

    def test_twice_says_that_it_is_so_already(self, web: Operator) -> None:
        first = web.json("archive", "web")
        before = web.contents
        for arguments in (("archive", "web"), ("archive", "web", "--dry-run")):
            result = web.admin(*arguments)
            said = "web is ARCHIVED already: there is nothing to do\n"
            assert (result.exit_code, result.stdout) == (ExitCode.DONE, said)
        assert web.json("archive", "web") == first
        assert web.contents == before

    def test_refused_while_the_vm_is_backed_up_saying_by_whom_and_since_when(
        self, web: Operator
    ) -> None:
        with web.session() as session:
            web.claim(session, "web")
            for arguments in (
                ("archive", "web"),
                ("archive", "web", "--dry-run"),
                ("forget", "web"),
            ):
                result = web.admin(*arguments)
                assert result.exit_code == ExitCode.LOCKED
                assert session.id in result.stderr
                assert WHEN in result.stderr
        assert stamps(web.nas / "web") == [OLDER, STAMP]

    def test_a_copy_that_cannot_be_moved_stays_and_is_reported(self, web: Operator) -> None:
        (web.nas / "web" / f"{OLDER}.json").unlink()
        result = web.admin("archive", "web", "--json")
        assert result.exit_code == ExitCode.FAILURE
        assert [problem["stamp"] for problem in json.loads(result.stdout)["left_behind"]] == [OLDER]
        assert stamps(web.nas / "web") == [OLDER]
        assert web.record("web").status == State.ARCHIVED
        again = web.admin("archive", "web")
        assert again.exit_code == ExitCode.STATE_REFUSED
        assert OLDER in again.stderr
        assert "activate and archive it" in again.stderr

    def test_an_archive_elsewhere_must_hold_our_marker(self, web: Operator, tmp_path: Path) -> None:
        web.configure(archive_directory=str(tmp_path / "elsewhere"))
        (tmp_path / "elsewhere").mkdir()
        result = web.admin("archive", "web")
        assert result.exit_code == ExitCode.NAS
        assert ".vmbackup-archive" in result.stderr
        assert web.record("web").status == State.CLEAN

    def test_a_vm_whose_copies_are_gone_is_refused(self, web: Operator) -> None:
        os.rename(web.nas / "web", web.folder / "away")
        assert web.admin("archive", "web").exit_code == ExitCode.NAS
        assert (web.record("web").status, web.record("web").last_copy) == (State.CLEAN, copy(STAMP))
        os.rename(web.folder / "away", web.nas / "web")
        assert web.admin("archive", "web").exit_code == ExitCode.DONE

    def test_a_vm_without_copies(self, site_with_database: Operator) -> None:
        site_with_database.add_vms("new")
        assert site_with_database.admin("archive", "new").exit_code == ExitCode.DONE
        assert site_with_database.record("new").status == State.ARCHIVED

    def test_a_vm_of_an_old_database_without_a_directory_touches_no_file(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        operator.commit(lambda contents: adoption.adopt_old(contents, {"old": State.CLEAN}, WHEN))
        put_copy(operator.nas, STAMP)
        assert operator.admin("archive", "old").exit_code == ExitCode.DONE
        assert operator.admin("activate", "old").exit_code == ExitCode.DONE
        assert operator.record("old").status == State.NEW
        assert stamps(operator.nas) == [STAMP]


class TestInterrupted:
    @pytest.mark.slow
    def test_killed_at_every_operation_on_the_nas_the_same_command_finishes(
        self, web: Operator
    ) -> None:
        """Nothing is lost, whatever step is the last, and no lock is left."""
        for path in (web.nas / "web").glob(f"{OLDER}*"):
            path.unlink()
        site = web.site()
        for breaks_at in range(self._count(web)):
            self._cut(web, BreakingFiles(breaks_at))
            assert {*stamps(web.nas / "web"), *stamps(web.nas / "archive" / "web")} == {STAMP}, (
                breaks_at
            )
            self._bury(web)
            outcome = archiving.archive(site, "web")
            assert (outcome.status, stamps(web.nas / "archive" / "web")) == (
                State.ARCHIVED,
                [STAMP],
            ), breaks_at
            assert web.record("web").moving is None
            os.rename(web.nas / "archive" / "web", web.nas / "web")
            web.set("web", status=State.CLEAN)

    def test_a_database_worker_finishes_it(self, web: Operator) -> None:
        self._cut(web, BreakingFiles(self._count(web) // 2))
        self._bury(web)
        outcome = archiving.resume(web.site(), "web")
        assert (outcome.status, stamps(web.nas / "archive" / "web")) == (
            State.ARCHIVED,
            [OLDER, STAMP],
        )

    def test_the_same_command_again_does_not_wait_for_a_recovery(self, web: Operator) -> None:
        """The claim of a process of this machine that was killed is no obstacle.

        That of another machine is.
        """
        session = web.dead_session("archive")
        session.commit(
            lambda contents: archive.start_archive(contents, "web", session.id, WHEN), "archive"
        )
        assert web.admin("archive", "web").exit_code == ExitCode.DONE
        assert stamps(web.nas / "archive" / "web") == [OLDER, STAMP]
        assert web.contents.sessions[session.id].state == "expired"
        elsewhere = Operator(web.folder, "beta").session("activate", machine="f" * 32).__enter__()
        elsewhere.commit(
            lambda contents: archive.start_activation(contents, "web", elsewhere.id, WHEN),
            "activate",
        )
        fall_silent(elsewhere)
        assert web.admin("activate", "web").exit_code == ExitCode.LOCKED

    def test_an_interrupted_archive_can_be_turned_round(self, web: Operator) -> None:
        self._cut(web, BreakingFiles(self._count(web) // 2))
        self._bury(web)
        assert web.admin("activate", "web").exit_code == ExitCode.DONE
        assert stamps(web.nas / "web") == [OLDER, STAMP]

    def test_an_interrupted_activate_can_be_turned_round(self, web: Operator) -> None:
        web.admin("archive", "web")
        web.set("web", moving="activate")
        assert web.admin("archive", "web").exit_code == ExitCode.DONE
        assert (web.record("web").status, web.record("web").moving) == (State.ARCHIVED, None)

    def test_refused_while_somebody_alive_moves_the_copies(self, web: Operator) -> None:
        with web.session("archive") as session:
            session.commit(
                lambda contents: archive.start_archive(contents, "web", session.id, WHEN), "archive"
            )
            assert web.admin("activate", "web").exit_code == ExitCode.LOCKED

    def test_resume_without_an_interrupted_move_is_refused(self, web: Operator) -> None:
        from shared.host.errors import IllegalMoveError

        with pytest.raises(IllegalMoveError, match="no interrupted move"):
            archiving.resume(web.site(), "web")

    @staticmethod
    def _count(web: Operator) -> int:
        files = BreakingFiles(10**6)
        site = web.site()
        site.files = files
        archiving.archive(site, "web")
        archiving.activate(web.site(), "web")
        return len(files.done)

    @staticmethod
    def _cut(web: Operator, files: NasFiles) -> None:
        """A power cut at one operation: the session ends as little as a killed process does."""
        site = web.site()
        site.files = files
        session = site.database.session("archive")
        site.database.session = lambda _worker: _Dying(session)  # type: ignore[method-assign]
        with pytest.raises(PowerCutError):
            archiving.archive(site, "web")
        session.heartbeat.cease()

    @staticmethod
    def _bury(web: Operator) -> None:
        rows = deaths.live_sessions(web.contents)
        web.commit(lambda contents: expiry.expire(contents, [row.id for row in rows], "gone", WHEN))


class _Dying:
    """A session whose process is gone before it can end it."""

    def __init__(self, session) -> None:
        self.session = session

    def __enter__(self):
        return self.session.__enter__()

    def __exit__(self, *_: object) -> None:
        return None


class TestDisplaced:
    def test_who_lost_the_claim_in_the_middle_stops(self, web: Operator) -> None:
        """Two operators: the second one broke the first one's lock while it was moving."""
        site = web.site()

        class Meddling(NasFiles):
            def move(self, source: Path, target: Path, name: str) -> None:
                if claim := web.record("web").claim:
                    web.commit(
                        lambda contents: claims.break_claim(
                            contents, "web", claim.number, "broken", WHEN
                        )
                    )
                super().move(source, target, name)

        site.files = Meddling()
        with pytest.raises(LockLostError):
            archiving.archive(site, "web")
        record = web.record("web")
        assert (record.claim, record.moving) == (None, "archive")
        assert web.admin("archive", "web").exit_code == ExitCode.DONE
        assert stamps(web.nas / "archive" / "web") == [OLDER, STAMP]


class TestActivate:
    def test_a_vm_that_is_not_archived_says_so(self, web: Operator) -> None:
        before = web.contents
        for arguments in (("activate", "web"), ("activate", "web", "--dry-run")):
            result = web.admin(*arguments)
            said = "web is CLEAN, not ARCHIVED: there is nothing to do\n"
            assert (result.exit_code, result.stdout) == (ExitCode.DONE, said)
        assert web.json("activate", "web")["copies"] == [OLDER, STAMP]
        assert web.contents == before

    def test_without_copies_it_is_new_once_the_database_knows_and_claims_no_copy(
        self, web: Operator
    ) -> None:
        web.admin("archive", "web")
        for path in (web.nas / "archive" / "web").iterdir():
            path.unlink()
        for arguments in (("activate", "web", "--dry-run"), ("activate", "web")):
            refused = web.admin(*arguments)
            assert (refused.exit_code, "vmbackup-admin forget web" in refused.stderr) == (
                ExitCode.NAS,
                True,
            )
        assert (web.record("web").status, web.record("web").last_copy) == (
            State.ARCHIVED,
            copy(STAMP),
        )
        assert (
            web.admin("verify", "web").exit_code == ExitCode.SOME_FAILED
        )  # its directory is there, and empty
        assert web.admin("activate", "web").exit_code == ExitCode.DONE
        record = web.record("web")
        assert (record.status, record.last_copy) == (State.NEW, None)

    def test_where_virtualbox_does_not_answer_it_counts_as_changed(self, web: Operator) -> None:
        web.admin("archive", "web")
        assert web.admin("activate", "web").exit_code == ExitCode.DONE
        assert web.record("web").status == State.BACKUP_NECESSARY

    def test_a_vm_of_another_host_counts_as_changed(self, web: Operator) -> None:
        web.set("web", node="beta")
        web.admin("archive", "web")
        assert web.json("activate", "web")["status"] == "BACKUP_NECESSARY"

    def test_unchanged_since_its_copy_it_is_clean(self, real_web: Callable[[], Operator]) -> None:
        operator = real_web()
        operator.admin("archive", "web")
        assert operator.json("activate", "web")["status"] == "CLEAN"

    def test_used_since_its_copy_it_needs_a_backup(
        self, real_web: Callable[[], Operator], host: SimulatedHost
    ) -> None:
        operator = real_web()
        operator.admin("archive", "web")
        host.run("modifyvm", operator.record("web").uuid, "--memory", "32")
        assert operator.json("activate", "web")["status"] == "BACKUP_NECESSARY"

    def test_running_it_needs_a_backup(
        self, real_web: Callable[[], Operator], host: SimulatedHost
    ) -> None:
        operator = real_web()
        operator.admin("archive", "web")
        host.run("startvm", operator.record("web").uuid, "--type", "headless")
        assert operator.json("activate", "web")["status"] == "BACKUP_NECESSARY"

    def test_with_its_newest_copy_damaged_it_needs_a_backup(
        self, real_web: Callable[[], Operator]
    ) -> None:
        operator = real_web()
        operator.admin("archive", "web")
        (operator.nas / "archive" / "web" / f"{STAMP}.ova").write_bytes(b"short")
        operator.admin("activate", "web")
        assert operator.record("web").status == State.BACKUP_NECESSARY

    @pytest.fixture
    def host(self, tmp_path: Path) -> SimulatedHost:
        return SimulatedHost(tmp_path / "hosts", "alpha")

    @pytest.fixture
    def real_web(self, site_with_database: Operator, host: SimulatedHost) -> Callable[[], Operator]:
        """A VM that VirtualBox has, with copies whose fingerprint is its own."""

        def make() -> Operator:
            operator = site_with_database
            operator.settings["virtualbox"] = {
                "vboxmanage": str(host.vboxmanage),
                "home": str(host.home),
            }
            operator.configure()
            vm = host.make_vm("web")
            fingerprint = fingerprint_of(operator.site().inventory()[vm.uuid]).to_json()
            operator.add_vms("web")
            operator.set(
                "web", uuid=vm.uuid, status=State.CLEAN, last_copy=copy(STAMP, **fingerprint)
            )
            for stamp in (OLDER, STAMP):
                put_copy(operator.nas / "web", stamp, stamp.encode(), uuid=vm.uuid)
            return operator

        return make


class TestForget:
    def test_the_record_goes_and_the_copies_stay(self, web: Operator) -> None:
        web.set("web", missing_since=WHEN)
        result = web.admin("forget", "web")
        assert result.exit_code == ExitCode.DONE
        assert str(web.nas / "web") in result.stdout
        assert result.stderr == ""
        assert web.contents.vms == {}
        assert stamps(web.nas / "web") == [OLDER, STAMP]

    def test_a_vm_that_its_host_still_lists_is_warned_about(self, web: Operator) -> None:
        assert "finds it again" in web.admin("forget", "web").stderr

    def test_a_dry_run_keeps_it(self, web: Operator) -> None:
        assert web.admin("forget", "web", "--dry-run").exit_code == ExitCode.DONE
        assert "web" in web.contents.vms

    def test_refused_in_the_state_of_a_backup_that_nobody_has_recovered_yet(
        self, web: Operator
    ) -> None:
        web.set("web", status=State.BACKUP_IN_PROGRESS)
        assert web.admin("forget", "web").exit_code == ExitCode.STATE_REFUSED

    def test_of_one_without_copies_none_are_said_to_stay(self, web: Operator) -> None:
        web.add_vms("new")
        told = web.admin("forget", "new").stdout
        assert ("its copies stay" in told, "no copy of it is known of" in told) == (False, True)

    def test_an_unknown_one(self, web: Operator) -> None:
        assert web.admin("forget", "nobody").exit_code == ExitCode.USAGE
