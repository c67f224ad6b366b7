"""`vmbackup-admin check`: one sentence, and the exit codes that monitoring programs know."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.host.clock import SystemClock
from shared.state.host_records import NodeRecord
from shared.state.records import Power
from shared.state.sessions.host_look import PREFIX, WorkerEnd
from shared.state.sessions.host_look_writing import VmsSeen, write_look
from shared.state.states import State
from shared.tasks import verdicts
from shared.tasks.judgement import Level, Verdict
from tests.unit.coordinator.conftest import Operator, copy

HOUR = 3600.0


class Ago(SystemClock):
    """The clock of the host when it looked."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(seconds=self.seconds)


def look(operator: Operator, *keys: str, ago: float = 0, unchanged: bool = True) -> None:
    """This host's workers looked at these VMs, `ago` seconds ago, after ten minutes of silence."""
    site = operator.site()
    uuids = [operator.record(key).uuid for key in keys]
    place = operator.vmstate / "node" / f"{PREFIX}{site.node}"
    seen = VmsSeen(uuids, uuids, uuids if unchanged else [])
    ends = {"vmfind": WorkerEnd(0, "")}
    for when in (ago + 600, ago):
        write_look(operator.vmstate / "node", site.identity, Ago(when), seen, ends)
        os.utime(place, (time.time() - when,) * 2)


@pytest.fixture
def clean(site_with_database: Operator) -> Operator:
    operator = site_with_database
    operator.add_vms("web01", "web02")
    for key in ("web01", "web02"):
        operator.set(key, status=State.CLEAN, last_copy=copy())
    return operator


def test_all_is_well(clean: Operator) -> None:
    look(clean, "web01", "web02")
    done = clean.admin("check")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (
        0,
        "VMBACKUP OK - 2 VMs: 2 copied | vms=2 ok=2 warning=0 critical=0 unknown=0 oldest_look=0s",
    )


def test_a_host_that_has_stopped_is_critical_however_clean_its_vms_are(clean: Operator) -> None:
    look(clean, "web01", "web02", ago=40 * 24 * HOUR)
    done = clean.admin("check")
    assert done.exit_code == 2
    assert done.stdout.startswith("VMBACKUP CRITICAL - ")
    assert "nobody looks at it" in done.stdout
    assert "40 d" in done.stdout


def test_a_host_that_never_looked_is_unknown(clean: Operator) -> None:
    assert clean.admin("check").exit_code == 3


def test_a_vm_that_was_used_needs_a_copy_in_time(clean: Operator) -> None:
    clean.set("web01", status=State.RUNNING)
    look(clean, "web01", "web02")
    done = clean.admin("check", "--max-age", "1m")
    assert done.exit_code == 0, "it was seen unchanged just now"
    look(clean, "web01", "web02", ago=2 * HOUR)
    look(clean, "web02")
    place = clean.vmstate / "node" / f"{PREFIX}{clean.site().node}"
    document = json.loads(place.read_bytes())
    used = time.time() - 2 * HOUR
    uuid = clean.record("web01").uuid
    document["unchanged"][uuid] = used
    document["vms"][uuid] = 0
    place.write_text(json.dumps(document), encoding="utf-8")
    assert clean.admin("check", "--max-age", "3h").exit_code == 0
    done = clean.admin("check", "--max-age", "1h")
    assert done.exit_code == 2
    assert "web01: it was used, and not copied since (2 h)" in done.stdout
    assert clean.admin("check", "web02", "--max-age", "1h").exit_code == 0


def test_one_document_for_programs(clean: Operator) -> None:
    look(clean, "web01", "web02")
    clean.set("web02", damaged=("20261122T203800Z-17",))
    done = clean.admin("check", "--json")
    document = json.loads(done.stdout)
    assert (done.exit_code, document["level"]) == (2, "CRITICAL")
    assert {row["name"]: row["kind"] for row in document["vms"]} == {
        "web01": "copied",
        "web02": "damaged",
    }
    assert [row["kind"] for row in document["hosts"]] == ["looks"]


@pytest.mark.parametrize("as_json", [False, True])
def test_without_a_database_nothing_is_known(operator: Operator, as_json: bool) -> None:
    done = operator.admin("check", *["--json"] * as_json)
    assert done.exit_code == 3
    if as_json:
        assert json.loads(done.stdout)["level"] == "UNKNOWN"
    else:
        assert done.stdout.startswith("VMBACKUP UNKNOWN - ")


@pytest.mark.parametrize(
    ("error", "kind"),
    [(RuntimeError("odd"), "VmBackupError"), (BrokenPipeError(), ""), (MemoryError(), "VmBack")],
)
def test_an_error_that_nobody_expected_is_no_warning_of_a_backup(
    clean: Operator, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str
) -> None:
    def judge(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("coordinator.commands.check.judge", judge)
    done = clean.admin("check", "--json")
    assert (done.exit_code, kind in done.stderr) == (3, True), done.output
    assert not kind or json.loads(done.stderr)["error"]["code"] == 3


def test_an_option_that_is_none_is_unknown(clean: Operator) -> None:
    done = clean.admin("check", "--json", "--nonsense")
    assert (done.exit_code, json.loads(done.stderr)["error"]["code"]) == (3, 3)
    assert clean.admin("status", "--nonsense").exit_code == 2


def test_an_empty_database_is_not_all_right(site_with_database: Operator) -> None:
    done = site_with_database.admin("check")
    assert done.exit_code == 3
    assert "no VM is known" in done.stdout


def test_of_an_empty_database_it_says_first_what_is_wrong(
    site_with_database: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Monitoring shows the first line."""
    full = Verdict("NAS", Level.CRITICAL, "full", "0 bytes are free")
    monkeypatch.setattr(verdicts, "judge_nas", lambda *_, **__: full)
    done = site_with_database.admin("check")
    assert done.exit_code == 2
    first = done.stdout.splitlines()[0]
    assert first.startswith("VMBACKUP CRITICAL - NAS: 0 bytes are free; no VM is known"), first


def test_a_nas_that_is_not_there_is_unknown(clean: Operator, tmp_path: Path) -> None:
    look(clean, "web01", "web02")
    clean.nas.rename(tmp_path / "gone")
    assert clean.admin("check").exit_code == 3


def test_an_unknown_vm_is_unknown(clean: Operator) -> None:
    done = clean.admin("check", "web99")
    assert done.exit_code == 3
    assert "web99" in done.stdout


@pytest.mark.parametrize("age", ["26", "0h", "h", "-1h", "1w", "999999h"])
def test_a_wrong_age_is_refused(clean: Operator, age: str) -> None:
    done = clean.admin("check", f"--max-age={age}")
    assert (done.exit_code, done.stdout.startswith("VMBACKUP UNKNOWN - ")) == (3, True)
    assert "90m, 26h or 2d" in done.stdout


def test_a_wrong_command_line_is_unknown_and_not_critical(clean: Operator) -> None:
    for wrong in ("--bogus", "--max-age"):
        assert clean.admin("check", wrong).exit_code == 3
    assert clean.admin("status", "--bogus").exit_code == 2
    for wrong in (["--bogus"], ["--log-format", "odd"], ["--log-format=odd", "-v"]):
        for command, code in (("check", 3), ("status", 2)):
            assert clean.admin(*wrong, command).exit_code == code, wrong
    assert clean.admin("--bogus").exit_code == 2


def test_an_option_of_all_commands_behind_one_is_told_its_place(clean: Operator) -> None:
    for option in ("--config", "--verbose", "--log-format"):
        said = clean.admin("statedb", "check", option).stderr
        assert f"it goes before the command, like vmbackup-admin {option} … statedb check" in said
    said = clean.admin("status", "--jsn").stderr
    assert "'--json'" in said
    assert "before the command" not in said


def test_show_has_the_verdict_with_its_reason_and_since_when(clean: Operator) -> None:
    look(clean, "web01", "web02", ago=4 * HOUR)
    shown = clean.admin("show", "web01").stdout
    assert "CRITICAL: nobody looks at it: alpha has stopped, or is off (4 h)" in shown
    assert "on alpha: vmbackup-admin doctor" in shown
    verdict = clean.json("show", "web01")["vm"]["verdict"]
    assert (verdict["level"], verdict["kind"]) == ("CRITICAL", "unlooked")
    assert verdict["seconds"] >= 4 * HOUR


def test_names_are_printed_so_that_they_do_no_harm(site_with_database: Operator) -> None:
    operator = site_with_database
    operator.add_vms("web\n\x1b[31m|x=1")
    done = operator.admin("check")
    assert done.exit_code == 2
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[0].count("|") == 1, "Nagios takes all behind it for data"


def test_what_is_unknown_is_one_plain_line(clean: Operator) -> None:
    clean.config.write_text("colour = 1\n[backup]\nnice = 99\n", encoding="utf-8")
    done = clean.admin("check")
    assert done.exit_code == 3
    (line,) = done.stdout.splitlines()
    assert "): nas.mountpoint: is not set" in line
    assert "; colour: is not a setting" in line
    assert "\\n" not in line


def test_a_remedy_names_a_vm_so_that_a_shell_takes_it(site_with_database: Operator) -> None:
    site_with_database.add_vms("-rf")
    found = json.loads(site_with_database.admin("check", "--json").stdout)
    remedies = [vm["remedy"] for vm in found["vms"]]
    assert remedies == ["vmbackup-admin show -- -rf"]


def test_two_hosts_whose_names_differ_only_in_case_are_told_why_nothing_is_known(
    clean: Operator,
) -> None:
    """As on SMB: there is one file, and the other host wrote it last."""
    clean.set("web02", node="ALPHA")
    machine = clean.site().identity.machine
    clean.database().commit_once(
        lambda contents: contents.with_node(NodeRecord("ALPHA", machine)), "another", "test"
    )
    look(clean, "web01")
    done = clean.admin("check")
    assert done.exit_code == 3
    assert "ALPHA: its name and that of alpha differ only in case" in done.stdout
    assert "give one of them another host.node" in done.stdout
    assert "the names ALPHA and alpha differ only in case" in clean.admin("doctor").stdout


@pytest.mark.parametrize("given_up", [False, True])
def test_that_a_vm_may_be_off_is_said_by_all_although_something_is_worse(
    clean: Operator, given_up: bool
) -> None:
    """By `check`, `show`, `status` and `notify`: before and after `lock recover`."""
    look(clean, "web01", "web02")
    saved = Power("savestate", "running", 7, since="2026-11-22T20:38:00Z", node="alpha")
    noted = {"power_left": saved} if given_up else {"power": saved}
    clean.set("web01", damaged=("20261122T203800Z-17",), **noted)
    words = "it may still be saved" if given_up else "it may be off"
    done = clean.admin("check")
    assert done.exit_code == 2
    first, *rest = done.stdout.splitlines()
    assert first.startswith("VMBACKUP CRITICAL - web01: 1 copy is damaged, and no newer one")
    assert "; also a backup saved it" in first
    assert first.partition("|")[2], "the first line has all: the performance data stands in it"
    assert words in first
    assert [line[:20] for line in rest if "web01" in line] == [
        "CRITICAL: web01: 1 c",
        "WARNING: web01: a ba",
    ]
    assert words in rest[-1]
    document = json.loads(clean.admin("check", "--json").stdout)
    (web,) = [vm for vm in document["vms"] if vm["name"] == "web01"]
    assert (web["kind"], [each["kind"] for each in web["also"]]) == (
        "damaged",
        ["left" if given_up else "unfinished"],
    )
    for command in (("show", "web01"), ("status",)):
        assert words in " ".join(clean.admin(*command).stdout.split()), command
