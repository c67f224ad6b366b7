"""`vmbackup-admin page`, and `page.file` of the `database` worker."""

import json
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from shared.host.errors import DatabaseDamagedError
from shared.reports.page.file import former
from shared.site import Site, open_site
from shared.state.sessions import worker_ends
from shared.state.states import State
from tests.support.copies import put_copy
from tests.support.formats import give_format
from tests.unit.coordinator.conftest import Operator, copy
from tests.unit.coordinator.test_check import look
from worker import database as database_worker
from worker.cli import program as worker_program
from worker.report import Report

STAMP = "20261122T203800Z-17"


@pytest.fixture
def clean(site_with_database: Operator) -> Operator:
    operator = site_with_database
    operator.settings["page"] = {"file": "vmbackup.html"}
    operator.configure()
    operator.add_vms("web01", "web02")
    for key in ("web01", "web02"):
        operator.set(key, status=State.CLEAN, last_copy=copy(), verified="2026-11-22T20:38:00Z")
    put_copy(operator.nas / operator.record("web01").directory, STAMP)
    look(operator, "web01", "web02")
    return operator


def database(operator: Operator, *options: str) -> Any:
    runner = CliRunner(env={"VMBACKUP_CONFIG": str(operator.config)})
    return runner.invoke(worker_program, [*options, "database"])


def test_it_says_what_check_says(clean: Operator, tmp_path: Path) -> None:
    clean.set("web02", damaged=(STAMP,), order_unknown=("1", "2"))
    judged = json.loads(clean.admin("check", "--json").stdout)
    shown = clean.json("page")["page"]
    assert shown["level"] == judged["level"] == "CRITICAL"
    said = clean.admin("check").stdout
    assert shown["answer"] in said
    assert [one["subject"] for one in shown["problems"]] == ["web02", "web02"]
    for problem in shown["problems"]:
        assert f"{problem['level']}: {problem['subject']}: {problem['reason']}" in said
    levels = {row["name"]: row["level"] for row in judged["vms"]}
    assert {row["name"]: row["level"] for row in shown["vms"]} == levels


def test_copies_and_days_are_those_of_the_nas(clean: Operator) -> None:
    (row,) = (row for row in clean.json("page")["page"]["vms"] if row["name"] == "web01")
    assert [one["stamp"] for one in row["copies"]] == [STAMP]
    assert (row["count"], row["copies"][0]["words"]) == (1, "good")
    assert len(row["marks"]) == 60
    assert row["marks"][-1] == "u"


def test_days_that_are_over_come_from_the_history(clean: Operator) -> None:
    """The newest generation until the end of a day says how that day ended."""
    now = datetime.now(UTC)
    before = f"{now - timedelta(days=1):%Y-%m-%dT23:00:00Z}"
    clean.set("web01", failures=1, last_error="no", last_error_at=before)
    clean.set("web01", failures=0, last_error="", last_error_at="")
    (row,) = (row for row in clean.json("page")["page"]["vms"] if row["name"] == "web01")
    assert "f" not in row["marks"], "committed today, it says nothing of yesterday"
    clean.set("web01", failures=1, last_error="no", last_error_at=f"{now:%Y-%m-%dT00:00:00Z}")
    (row,) = (row for row in clean.json("page")["page"]["vms"] if row["name"] == "web01")
    assert row["marks"][-1] == "f"


def test_a_copy_that_virtualbox_would_not_import_is_no_backup(clean: Operator) -> None:
    """On the day of which it is, the backup failed."""
    now = datetime.now(UTC)
    stamp, when = f"{now:%Y%m%dT000000Z}-18", f"{now:%Y-%m-%dT00:00:00Z}"
    place = clean.nas / clean.record("web01").directory
    put_copy(place, stamp, finished=when, refused="it has a disk of another kind")
    clean.set("web01", failures=1, last_error="refused", last_error_at=when)
    (row,) = (row for row in clean.json("page")["page"]["vms"] if row["name"] == "web01")
    assert [each["good"] for each in row["copies"]] == [False, True]
    assert row["marks"][-1] == "f"


def test_a_file_is_replaced_and_its_address_said(clean: Operator, tmp_path: Path) -> None:
    target = tmp_path / "my page.html"
    assert clean.admin("page", "--output", str(target)).exit_code == 0
    done = clean.admin("page", "--output", str(target))
    address = f"file://{tmp_path}/my%20page.html"
    assert (done.exit_code, done.stdout) == (0, f"wrote {target}: {address}\n")
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.glob(".*.html*")] == []


def test_without_a_place_it_is_said_what_is_missing(clean: Operator) -> None:
    done = clean.admin("page")
    assert (done.exit_code, "--output is missing" in done.stderr) == (2, True)


def test_a_place_that_is_not_there_is_said(clean: Operator, tmp_path: Path) -> None:
    done = clean.admin("page", "--output", str(tmp_path / "missing/page.html"))
    assert done.exit_code == 2
    assert "cannot write the page" in done.stderr


def test_without_a_database_the_file_stays_as_it_is(operator: Operator, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    target.write_text("old", encoding="utf-8")
    done = operator.admin("page", "--output", str(target))
    assert (done.exit_code, target.read_text(encoding="utf-8")) == (10, "old")


def test_without_the_extra_it_is_said_how_to_get_it(
    clean: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    done = clean.admin("page", "--output", "page.html")
    assert done.exit_code == 2
    assert "pip install jinja2" in done.stderr


def test_the_worker_writes_it_beside_the_database_when_something_changed(clean: Operator) -> None:
    target = clean.nas / "vmbackup.html"
    assert database(clean).exit_code == 0
    first = former(target)
    assert first is not None
    os.utime(target, (1, 1))
    assert database(clean).exit_code == 0
    assert target.stat().st_mtime == 1, "nothing has changed, and it is new"
    clean.set("web01", failures=1)
    assert database(clean).exit_code == 0
    assert target.stat().st_mtime == 1, "it was written just now"
    text = target.read_text(encoding="utf-8")
    target.write_text(text.replace(str(first.written), str(first.written - 250)), encoding="utf-8")
    assert database(clean).exit_code == 0
    second = former(target)
    assert second is not None
    assert second.generation > first.generation


@pytest.mark.parametrize("page", [True, False])
def test_the_worker_looks_at_the_page_by_the_database_that_it_has_open(
    clean: Operator, page: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert database(clean).exit_code == 0
    if not page:
        (clean.nas / "vmbackup.html").unlink()
    opened = []

    def counted(*given: Any, **more: Any) -> Site:
        opened.append(more)
        return open_site(*given, **more)

    monkeypatch.setattr("shared.site.open_site", counted)
    assert database(clean).exit_code == 0
    assert len(opened) == (1 if page else 2), "before something is written the NAS is looked at"


@pytest.mark.parametrize(
    ("happens", "code", "said"),
    [
        (lambda operator: give_format(operator.vmstate, "9.0"), 0, "of version 9.0"),
        (
            lambda operator: operator.nas.rename(operator.nas.with_name("gone")),
            13,
            "cannot be used",
        ),
        (lambda operator: operator.config.write_text("nonsense"), 2, "is not valid TOML"),
    ],
)
def test_what_happens_while_the_worker_works_is_said_as_by_one_that_is_started_then(
    clean: Operator,
    happens: Callable[[Operator], object],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = database_worker.run
    assert database(clean).exit_code == 0

    def run(site: Site) -> Report:
        report = work(site)
        happens(clean)
        return report

    monkeypatch.setattr(database_worker, "run", run)
    done = database(clean)
    assert (done.exit_code, said in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize("ahead", [-31, 10])
def test_a_page_that_is_old_or_from_the_future_is_written_again(
    clean: Operator, ahead: float
) -> None:
    target = clean.nas / "vmbackup.html"
    assert database(clean).exit_code == 0
    first = former(target)
    assert first is not None
    text = target.read_text(encoding="utf-8")
    other = str(round(first.written + 60 * ahead))
    target.write_text(text.replace(str(first.written), other), encoding="utf-8")
    assert database(clean).exit_code == 0
    now = former(target)
    assert now is not None
    assert abs(now.written - first.written) < 60


def test_the_forecast_is_that_of_space(clean: Operator) -> None:
    now = datetime.now(UTC)
    rows = [[f"{now - timedelta(days=back):%Y-%m-%dT%H:%M:%SZ}", 1 << 50, 1] for back in range(9)]
    place = worker_ends.space_note(clean.configuration.host.state_directory, clean.nas)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"samples": rows}), encoding="utf-8")
    said = clean.json("page")["page"]["nas"]["forecast"]
    assert said == "it does not fill up (9 looks in 8 days)"


def test_a_writer_that_died_leaves_nothing_for_good(clean: Operator) -> None:
    old, new = (clean.nas / f".vmbackup.html.{digits}" for digits in ("0123abcd", "0123abce"))
    for path in (old, new):
        path.write_text("half", encoding="utf-8")
    os.utime(old, (1, 1))
    assert database(clean).exit_code == 0
    assert (old.exists(), new.exists()) == (False, True)


def test_a_page_that_is_not_written_is_no_silence(clean: Operator) -> None:
    (clean.nas / "vmbackup.html").mkdir()
    done = database(clean)
    assert done.exit_code == 1
    assert "the page was not written: cannot write the page" in done.stderr
    configuration = clean.configuration
    ends = worker_ends.read_ends(configuration.host.state_directory, configuration.nas.mountpoint)
    assert ends["database"].code == 1, "`check` shows it"


@pytest.mark.parametrize(("database_mode", "page_mode"), [(0o770, 0o660), (0o775, 0o664)])
def test_whoever_may_not_read_the_database_may_not_read_the_page_beside_it(
    clean: Operator, database_mode: int, page_mode: int
) -> None:
    clean.nas.chmod(0o755)
    clean.vmstate.chmod(database_mode)
    assert database(clean).exit_code == 0
    assert (clean.nas / "vmbackup.html").stat().st_mode & 0o777 == page_mode


def test_no_page_where_none_is_wanted(clean: Operator) -> None:
    clean.settings["page"] = {"file": ""}
    clean.configure()
    assert database(clean).exit_code == 0
    assert not list(clean.nas.glob("*.html"))


@pytest.mark.parametrize("named", [True, False])
def test_without_the_extra_only_a_page_that_is_asked_for_is_missed(
    clean: Operator, named: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clean.settings["page"] = {"file": "vmbackup.html"} if named else {}
    clean.configure()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    caplog.set_level(logging.INFO)
    assert database(clean).exit_code == int(named)


@pytest.mark.parametrize("file", ["page.htm", "sub/page.html", "../page.html", ".html"])
def test_a_wrong_place_is_refused_with_its_key(clean: Operator, file: str) -> None:
    clean.settings["page"] = {"file": file}
    clean.configure()
    done = clean.admin("config", "validate")
    assert done.exit_code == 2
    assert "page.file" in done.stderr


def test_a_damaged_generation_in_the_past_is_passed_over(clean: Operator) -> None:
    oldest = min((clean.vmstate / "gen").iterdir())
    oldest.write_bytes(b"damaged")
    assert clean.admin("page", "--json").exit_code == 0


def test_an_archive_that_is_away_hides_no_other_vm(clean: Operator) -> None:
    clean.set("web02", status=State.ARCHIVED)
    (clean.nas / "archive").rename(clean.nas / "elsewhere")
    rows = {row["name"]: row for row in clean.json("page")["page"]["vms"]}
    assert (rows["web01"]["looked_up"], rows["web02"]["looked_up"]) == (True, False)


def test_a_vm_that_is_being_copied_runs_now(clean: Operator) -> None:
    with clean.session() as session:
        clean.claim(session, "web01")
        session.doing.vm, session.doing.phase, session.doing.percent = "web01", "export", 41.5
        session.heartbeat.beat()
        (running,) = clean.json("page")["page"]["running"]
    assert (running["vm"], running["what"], running["host"]) == ("web01", "backup: export", "alpha")
    assert running["percent"] == 41.5


def test_a_damaged_database_is_for_the_workers_to_tell(
    clean: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NFS another process of this host may have seen more than the listing shows now."""

    def rolled_back(*_: object) -> None:
        raise DatabaseDamagedError("the history of the state database was rolled back")

    monkeypatch.setattr("worker.page.is_new_enough", rolled_back)
    assert database(clean).exit_code == 0
    assert not (clean.nas / "vmbackup.html").exists()
