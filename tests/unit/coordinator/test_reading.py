"""status, show, copies and log.

They read without a lock, and show what there is even when something is wrong.
"""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator import text
from shared.copies.names import partial_name
from shared.copies.sidecar_fields import Wire
from shared.host.errors import ExitCode
from shared.host.processes import Completed
from shared.state.host_records import NodeRecord
from shared.state.records import OtherEngine
from shared.state.rules import expiry, sightings
from shared.state.rules.sightings import Sighting
from shared.state.states import State
from tests.support.copies import put_copy
from tests.unit.coordinator.conftest import WHEN, Operator, copy, fall_silent, uuid

STAMP = "20261122T203800Z-17"


def damage(operator: Operator, number: int | None = None) -> int:
    """Cuts a generation (the newest) short."""
    path = sorted((operator.vmstate / "gen").iterdir())[-1 if number is None else number - 1]
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])
    return int(path.name)


def tree(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(directory.rglob("*"))
    }


def _refused(*_arguments: object, **_options: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


class TestStatus:
    def test_without_a_database_it_says_what_to_do(self, operator: Operator) -> None:
        result = operator.admin("status")
        assert result.exit_code == ExitCode.NO_DATABASE
        assert "vmbackup-admin init" in result.stderr

    def test_without_vms_it_says_who_finds_them(self, site_with_database: Operator) -> None:
        result = site_with_database.admin("status")
        assert (result.exit_code, result.stderr) == (ExitCode.DONE, "")
        assert "vmbackup-worker vmfind" in result.stdout

    def test_the_contract_of_its_json(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web", "db")
        operator.set(
            "web",
            status=State.CLEAN,
            last_copy=copy(STAMP, 4096),
            failures=2,
            last_error="disk full",
            last_error_at=WHEN,
        )
        document = operator.json("status")
        assert document["schema"] == 1
        assert document["repository"] == operator.site().database.version.repository
        rows = {row["name"]: row for row in document["vms"]}
        assert {
            "name",
            "status",
            "node",
            "uuid",
            "last_copy",
            "last_error",
            "missing_since",
            "progress",
        } <= rows["web"].keys()
        assert rows["web"]["status"] == "CLEAN"
        assert rows["web"]["node"] == "alpha"
        assert rows["web"]["last_copy"]["stamp"] == STAMP
        assert (rows["web"]["last_error"], rows["web"]["failures"]) == ("disk full", 2)
        assert rows["db"]["last_copy"] is None
        assert rows["db"]["progress"] is None

    def test_what_needs_attention_comes_first_and_is_counted(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        operator.add_vms("clean", "waiting")
        operator.set("clean", status=State.CLEAN, last_copy=copy())
        operator.set(
            "waiting",
            status=State.BACKUP_NECESSARY,
            failures=1,
            last_error="disk full",
            missing_since=WHEN,
            also_on="beta",
        )
        lines = operator.admin("status").stdout.splitlines()
        assert lines[1].startswith("waiting")
        for text_ in ("disk full", "missing for", "also on beta", "vmbackup-lock recover alpha"):
            assert text_ in lines[1]
        assert lines[-1] == "2 VMs: 1 BACKUP_NECESSARY, 1 CLEAN, 1 failing, 1 without a copy"

    def test_it_shows_how_far_an_export_is(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web")
        with operator.site().database.session("backup") as session:
            (
                session.doing.vm,
                session.doing.phase,
                session.doing.percent,
                session.doing.bytes_done,
            ) = "web", "export", 42.0, 2**30
            session.doing.rate, session.doing.seconds_left = 100 * 2**20, 300
            operator.claim(session, "web")
            session.heartbeat.beat()
            assert (
                "export 42 %, 1.0 GiB, 100.0 MiB/s, 5 min left" in operator.admin("status").stdout
            )
            row = operator.json("status")["vms"][0]
            assert row["progress"] == {
                "phase": "export",
                "percent": 42.0,
                "bytes_done": 2**30,
                "rate": 100 * 2**20,
                "seconds_left": 300,
            }
            assert row["claim"]["session"] == session.id

    def test_progress_is_not_that_of_another_vm_of_the_same_session(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        operator.add_vms("web", "db")
        with operator.site().database.session("backup") as session:
            session.doing.vm, session.doing.percent = "db", 42.0
            operator.claim(session, "web")
            session.heartbeat.beat()
            rows = {row["name"]: row for row in operator.json("status")["vms"]}
            assert rows["web"]["progress"] is None

    def test_it_shows_an_interrupted_move(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web")
        operator.set("web", status=State.ARCHIVED, moving="archive")
        assert "archive was interrupted" in operator.admin("status").stdout

    def test_it_shows_why_a_vm_waits_as_long_as_it_does(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web")
        operator.set(
            "web", status=State.BACKUP_NECESSARY, waiting="waits for its window 22:00-06:00"
        )
        assert "waits for its window 22:00-06:00" in operator.admin("status").stdout
        assert operator.json("status")["vms"][0]["waiting"] == "waits for its window 22:00-06:00"
        operator.set("web", status=State.RUNNING)
        assert operator.json("status")["vms"][0]["waiting"] is None

    def test_it_says_when_the_fast_engine_is_left_for_longer_than_one_backup(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        operator.add_vms("web")
        for copies, said in ((1, False), (2, True)):
            last = replace(
                copy(), other_engine=OtherEngine("its format is VMDK (clone it)", copies)
            )
            operator.set("web", status=State.CLEAN, last_copy=last)
            shown = " ".join(operator.admin("status").stdout.split())
            assert ("the last 2 copies were made by VBoxManage" in shown) == said
            assert ("because its format is VMDK (clone it)" in shown) == said
        (row,) = operator.json("status")["vms"]
        assert row["last_copy"]["other_engine"]["copies"] == 2
        assert "the last 2 copies were made by VBoxManage" in operator.admin("show", "web").stdout

    def test_it_changes_nothing_on_the_nas(self, site_with_database: Operator) -> None:
        site_with_database.add_vms("web")
        before = tree(site_with_database.nas)
        assert site_with_database.admin("status").exit_code == 0
        assert tree(site_with_database.nas) == before

    def test_a_damaged_newest_generation_shows_the_one_before_with_a_warning(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        operator.add_vms("web")
        operator.set("web", status=State.RUNNING)
        number = damage(operator)
        result = operator.admin("status")
        assert result.exit_code == ExitCode.DONE
        assert f"generation {number} of the state database is damaged" in result.stderr
        assert f"shown is generation {number - 1}" in result.stderr
        assert "NEW" in result.stdout
        assert number - 1 == operator.json("status")["generation"]
        assert operator.json("status")["warnings"]

    def test_with_no_generation_that_can_be_read_it_fails(
        self, site_with_database: Operator
    ) -> None:
        damage(site_with_database)
        result = site_with_database.admin("status")
        assert result.exit_code == ExitCode.FAILURE
        assert "can be read" in result.stderr

    def test_another_machine_of_this_hosts_name_is_a_warning_for_a_reader(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        operator.commit(
            lambda contents: sightings.sight(
                contents, "alpha", [Sighting("u", "web", "web")], WHEN
            ),
            machine="0" * 32,
        )
        result = operator.admin("status")
        assert result.exit_code == ExitCode.DONE
        assert "another machine" in result.stderr
        assert "web" in result.stdout

    def test_a_foreign_nas_is_refused(self, site_with_database: Operator, tmp_path: Path) -> None:
        operator = site_with_database
        assert operator.admin("status").exit_code == ExitCode.DONE
        os.rename(operator.vmstate, tmp_path / "away")
        result = operator.admin("status")
        assert result.exit_code == ExitCode.NAS
        assert "holds no state database" in result.stderr

    def test_an_unmounted_nas_is_refused(self, site_with_database: Operator) -> None:
        site_with_database.configure(require_mount=True)
        result = site_with_database.admin("status")
        assert result.exit_code == ExitCode.NAS
        assert "nothing is mounted" in result.stderr

    def test_a_user_who_may_not_see_what_this_host_remembers_can_read(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        operator.add_vms("web")
        (operator.folder / "file").write_text("")
        operator.settings["host"] = {
            "node": "alpha",
            "state_directory": str(operator.folder / "file" / "below"),
        }
        operator.configure()
        for arguments in (("status",), ("show", "web"), ("copies",), ("log",)):
            assert operator.admin(*arguments).exit_code == ExitCode.DONE
        assert operator.lock("list").exit_code == ExitCode.DONE
        result = operator.admin("archive", "web")
        assert result.exit_code == ExitCode.USAGE
        assert "host.state_directory" in result.stderr

    def test_a_nas_that_is_mounted_read_only_can_be_read(
        self, site_with_database: Operator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The probe says read-only.

        Nothing may be written, not even the directory that shows the time.
        """
        operator = site_with_database
        operator.add_vms("web")
        session = operator.session().__enter__()
        operator.claim(session, "web")
        fall_silent(session)
        answer = f"{operator.nas}\t0\t1\t4096\t1000\t500"
        completed = Completed((), 0, answer, "")
        monkeypatch.setattr(
            "shared.nas.mount.SubprocessRunner.run", lambda *_arguments, **_options: completed
        )
        monkeypatch.setattr("os.mkdir", _refused)
        for arguments in (("status",), ("show", "web"), ("copies",), ("log",)):
            assert operator.admin(*arguments).exit_code == ExitCode.DONE
        assert operator.lock("list").exit_code == ExitCode.DONE
        result = operator.admin("archive", "web")
        assert result.exit_code == ExitCode.NAS
        assert "read-only" in result.stderr

    def test_names_that_could_move_the_cursor_are_made_visible(
        self, site_with_database: Operator
    ) -> None:
        site_with_database.add_vms("evil\x1b[2Jname")
        output = site_with_database.admin("status").stdout
        assert "\x1b" not in output
        assert "evil\\x1b[2Jname" in output


class TestShow:
    def test_all_about_one_vm(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web")
        operator.set(
            "web",
            status=State.CLEAN,
            last_copy=copy(STAMP, state="off"),
            last_error="once",
            last_error_at=WHEN,
        )
        put_copy(operator.nas / "web", STAMP)
        output = operator.admin("show", "web").stdout
        for part in ("CLEAN", "alpha", STAMP, "once", "good"):
            assert part in output
        document = operator.json("show", "web")["vm"]
        assert document["fingerprint"] == {"state": "off"}
        assert [row["stamp"] for row in document["copies"]] == [STAMP]

    def test_how_each_copy_was_made(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web")
        for claim, engine, more in (
            (17, "parallel", {"wire": Wire(11_000_000, 680_000_000)}),
            (18, "parallel", {"wire": Wire(691_000_000, 0, "one of 10 copies is sent whole")}),
            (
                19,
                "vboxmanage",
                {
                    "engine_reason": "its format is VMDK",
                    "wire": Wire(600_000_000, 0, "VBoxManage sends everything"),
                },
            ),
        ):
            put_copy(operator.nas / "web", f"20261122T203800Z-{claim}", engine=engine, **more)
        output = operator.admin("show", "web").stdout
        for line in (
            "made by the parallel engine; 10.5 MiB sent, 648.5 MiB copied on the NAS\n",
            "made by the parallel engine; all of it sent: one of 10 copies is sent whole\n",
            "made by VBoxManage, because its format is VMDK\n",
        ):
            assert output.count(line) == 1
        rows = operator.json("copies")["copies"]
        assert [row["engine"] for row in rows] == ["parallel", "parallel", "vboxmanage"]
        assert rows[0]["wire"] == {"sent": 11_000_000, "copied": 680_000_000, "reason": ""}
        assert (rows[1]["engine_reason"], rows[2]["engine_reason"]) == (None, "its format is VMDK")

    def test_what_is_so_of_all_copies_is_said_once(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web")
        for claim in (17, 18):
            put_copy(operator.nas / "web", f"20261122T203800Z-{claim}", engine="vboxmanage")
        output = operator.admin("show", "web").stdout
        assert (output.count("20261122T203800Z-1"), output.count("made by VBoxManage")) == (2, 1)

    def test_an_unknown_vm_is_a_usage_error_that_names_similar_ones(
        self, site_with_database: Operator
    ) -> None:
        site_with_database.add_vms("webserver")
        result = site_with_database.admin("show", "web01")
        assert result.exit_code == ExitCode.USAGE
        assert "webserver" in result.stderr


class TestCopies:
    def test_good_ones_others_and_archived_ones(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web", "db")
        put_copy(operator.nas / "web", STAMP)
        put_copy(operator.nas / "archive" / "db", "20261121T203800Z-3", uuid=uuid(1))
        (operator.nas / "web" / "20261123T203800Z-18.ova").write_bytes(b"torn")
        (operator.nas / "web" / partial_name("20261124T203800Z-19", 19, "ova")).write_bytes(
            b"being written"
        )
        rows = {row["stamp"]: row for row in operator.json("copies")["copies"]}
        assert {stamp: (row["good"], row["archived"]) for stamp, row in rows.items()} == {
            STAMP: (True, False),
            "20261121T203800Z-3": (True, True),
            "20261123T203800Z-18": (False, False),
            "20261124T203800Z-19": (False, False),
        }
        assert Path(rows[STAMP]["path"]).read_bytes() == b"bytes of an ova"
        output = operator.admin("copies", "web").stdout
        assert "no sidecar" in output
        assert "db" not in output

    def test_none_yet(self, site_with_database: Operator) -> None:
        assert site_with_database.admin("copies").stdout == "There are no copies yet.\n"

    def test_none_of_a_vm(self, site_with_database: Operator) -> None:
        site_with_database.add_vms("web")
        assert site_with_database.admin("copies", "web").stdout == "There is no copy of web.\n"
        assert site_with_database.admin("status").stdout.endswith("1 VM: 1 NEW, 1 without a copy\n")


class TestLog:
    def test_who_when_why_and_what_changed_newest_last(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web")
        operator.set("web", status=State.RUNNING)
        commits = operator.json("log")["commits"]
        assert [commit["generation"] for commit in commits] == [1, 2, 3]
        assert commits[1]["changes"] == ["web new"]
        assert commits[2]["changes"] == ["web NEW -> RUNNING"]
        assert commits[2]["node"] == "alpha"
        lines = operator.admin("log", "--limit", "1", "--commits").stdout.splitlines()
        assert len(lines) == 2
        assert "web NEW -> RUNNING" in lines[1]

    def test_only_commits_of_one_vm(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web", "db")
        operator.set("db", status=State.RUNNING)
        operator.set("web", status=State.RUNNING)
        assert [
            commit["generation"] for commit in operator.json("log", "--vm", "db")["commits"]
        ] == [2, 3]

    def test_a_damaged_and_a_missing_generation_are_shown_as_such(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        for state in (State.RUNNING, State.NEW, State.RUNNING):
            operator.add_vms("web") if "web" not in operator.contents.vms else None
            operator.set("web", status=state)
        damage(operator, 3)
        sorted((operator.vmstate / "gen").iterdir())[1].unlink()
        commits = {commit["generation"]: commit for commit in operator.json("log")["commits"]}
        assert "damaged" in commits[3]["problem"]
        assert commits[2]["problem"] == "missing"
        assert commits[5]["changes"] == ["web NEW -> RUNNING"]
        assert "damaged" in operator.admin("log").stdout
        for options in ([], ["--commits"]):
            of_one = operator.admin("log", "--vm", "web", *options).stdout
            assert "damaged" in of_one, "it may have been about this VM"
            assert operator.admin("log", "--vm", "none", *options).exit_code == 2

    def test_it_goes_on_in_the_history(self, site_with_database: Operator) -> None:
        from shared.state.store import protocol

        operator = site_with_database
        operator.add_vms("web")
        operator.set("web", status=State.RUNNING)
        operator.site().database.files.run(protocol.prune(1))
        assert [commit["generation"] for commit in operator.json("log")["commits"]] == [1, 2, 3]

    def test_an_expired_session_is_in_it(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web")
        session = operator.session().__enter__()
        operator.claim(session, "web")
        fall_silent(session)
        operator.commit(lambda contents: expiry.expire(contents, [session.id], "gone", WHEN))
        last = operator.json("log")["commits"][-1]["changes"]
        assert f"session {session.id} expired" in last
        assert any("BACKUP_IN_PROGRESS -> BACKUP_NECESSARY" in change for change in last)

    def test_plain_words_of_one_vm_since_a_moment(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web", "db")
        operator.set("web", status=State.RUNNING)
        operator.set("web", status=State.BACKUP_NECESSARY)
        said = operator.admin("log", "--vm", "web").stdout
        assert "alpha  web  runs" in said
        assert "was used: its backup is due" in said
        assert "db" not in said
        assert (
            operator.admin("log", "--since", "today").stdout.count("\n") == 5
        )  # a line above them
        late = operator.admin("log", "--since", "2100-01-01")
        assert late.stdout == "Nothing happened since 2100-01-01 00:00Z.\n"
        events = operator.json("log", "--vm", operator.record("web").uuid)["events"]
        assert [event["kind"] for event in events][:3] == ["found", "started", "used"]

    def test_a_vm_that_is_not_there_is_said_and_one_that_was_is_told_of(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        operator.add_vms("web", "db")
        for options in ([], ["--commits"], ["--json"]):
            unknown = operator.admin("log", "--vm", "wep", *options)
            assert unknown.exit_code == 2
            assert "did you mean web" in unknown.stderr
        operator.commit(lambda contents: contents.without_vm("db"))
        assert "its record was deleted" in operator.admin("log", "--vm", "db").stdout

    def test_what_is_no_moment_is_refused(self, site_with_database: Operator) -> None:
        refused = site_with_database.admin("log", "--since", "soon")
        assert refused.exit_code == 2
        assert "yesterday" in refused.stderr


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "-"),
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7200, "2 h"),
        (200000, "2 d"),
        (-5, "0 s"),
    ],
)
def test_durations(seconds: float | None, expected: str) -> None:
    assert text.duration(seconds) == expected


def test_columns_line_up_with_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    text.print_table(["VM", "X"], [["日本", "1"], ["abcde", "2"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["VM     X", "日本   1", "abcde  2"]


def test_json_survives_any_name(site_with_database: Operator) -> None:
    site_with_database.add_vms('a"b\nc\udcff')
    result = site_with_database.admin("status", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["vms"][0]["name"] == 'a"b\nc\udcff'


class TestLeftOut:
    RULE = '[policy."we*"] backup = "never"'

    def test_status_counts_it_apart_and_names_the_rule(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web", "db", "old")
        operator.set("web", left_out=self.RULE, failures=3, last_error="no room")
        operator.set("old", left_out=self.RULE, status=State.ARCHIVED)
        rows = {row["name"]: row for row in operator.json("status")["vms"]}
        assert {name: row["left_out"] for name, row in rows.items()} == {
            "web": self.RULE,
            "db": None,
            "old": None,
        }
        assert rows["web"]["verdict"]["kind"] == "left-out"
        lines = operator.admin("status").stdout.splitlines()
        assert f"left out of backups: {self.RULE}" in "\n".join(lines)
        assert lines[-1] == ("3 VMs: 2 NEW, 1 ARCHIVED, 1 left out of backups, 1 without a copy")

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({}, "[backup]: has backups"),
            ({"wish": "never"}, 'vmbackup/backup = "never" is ignored: vm_decides = false'),
            ({"node": "beta"}, "[backup]: has backups"),
            (
                {"node": "beta", "left_out": RULE},
                f"what counts is the configuration of beta: left out: {RULE}",
            ),
        ],
    )
    def test_show_says_which_rule_decides(
        self, site_with_database: Operator, values: dict[str, str], said: str
    ) -> None:
        operator = site_with_database
        operator.add_vms("web")
        operator.set("web", **values)
        assert said in operator.json("show", "web")["vm"]["rule"]
        assert said in " ".join(operator.admin("show", "web").stdout.split())


class TestSomeOfThem:
    @pytest.fixture
    def three(self, site_with_database: Operator) -> Operator:
        site_with_database.add_vms("web01", "web02", "db")
        site_with_database.set("web02", node="beta", damaged=(STAMP,))
        return site_with_database

    def shown(self, operator: Operator, *arguments: str) -> list[str]:
        return sorted(row["name"] for row in operator.json("status", *arguments)["vms"])

    def test_by_name_host_and_problem(self, three: Operator) -> None:
        assert self.shown(three, "web01", "db") == ["db", "web01"]
        assert self.shown(three, "--host", "beta") == ["web02"]
        assert self.shown(three, "web01", "--host", "beta") == []
        problems = {row["name"] for row in three.json("status", "--problems")["vms"]}
        judged = json.loads(three.admin("check", "--json").stdout)["vms"]
        assert problems == {row["name"] for row in judged if row["level"] != "OK"}

    def test_that_none_is_like_that_is_said(self, three: Operator) -> None:
        three.commit(lambda contents: contents.with_node(NodeRecord("empty", "")))
        for words, said in (
            (("web01", "--host", "beta"), "None of the named VMs is on beta."),
            (("--host", "empty"), "None of the 3 VMs is on empty."),
            (("--host", "empty", "--problems"), "None of the 3 VMs is on empty and has a problem."),
        ):
            done = three.admin("status", *words)
            assert (done.exit_code, done.stdout) == (0, f"{said}\n")

    def test_a_host_that_is_not_there_is_no_answer(self, three: Operator) -> None:
        done = three.admin("status", "--host", "gamma")
        assert done.exit_code == ExitCode.USAGE
        assert "alpha" in done.stderr

    @pytest.mark.parametrize(
        ("typed", "meant"), [("wbe01", "web01"), ("WEB1", "web01"), ("dbb", "db")]
    )
    def test_a_name_with_a_slip_names_the_one_that_is_meant(
        self, three: Operator, typed: str, meant: str
    ) -> None:
        done = three.admin("status", typed)
        assert done.exit_code == ExitCode.USAGE
        assert f"did you mean {meant}" in done.stderr

    def test_a_command_with_a_slip_too(self, three: Operator) -> None:
        done = three.admin("statsu")
        assert done.exit_code == ExitCode.USAGE
        assert "status" in done.stderr
