"""`vmbackup-admin metrics`, and `metrics.file` of the `database` worker."""

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from shared.state.states import State
from tests.support.copies import UUID, put_copy
from tests.unit.coordinator.conftest import Operator, copy
from tests.unit.coordinator.test_check import look
from worker.cli import program as worker_program

STAMP = "20261122T203800Z-17"


def samples(text: str) -> dict[str, float]:
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@pytest.fixture
def clean(site_with_database: Operator) -> Operator:
    operator = site_with_database
    operator.add_vms("web01", "web02")
    for key in ("web01", "web02"):
        operator.set(key, status=State.CLEAN, last_copy=copy(), verified="2026-11-22T20:38:00Z")
    look(operator, "web01", "web02")
    return operator


def test_times_are_times_and_no_ages(clean: Operator) -> None:
    found = samples(clean.admin("metrics").stdout)
    labels = '{host="alpha",vm="web01"}'
    at = "2026-11-22T20:38:00Z"
    expected = 1795379880.0  # date -d 2026-11-22T20:38:00Z +%s
    assert clean.record("web01").verified == at
    assert found[f"vmbackup_vm_last_full_read_timestamp_seconds{labels}"] == expected
    assert found[f"vmbackup_vm_failures{labels}"] == 0
    assert found["vmbackup_written_timestamp_seconds"] > expected


def test_it_says_what_check_says(clean: Operator) -> None:
    clean.set("web02", damaged=(STAMP,), order_unknown=("1", "2"))
    judged = json.loads(clean.admin("check", "--json").stdout)
    found = samples(clean.admin("metrics").stdout)
    for row in judged["vms"]:
        level = ["OK", "WARNING", "CRITICAL", "UNKNOWN"].index(row["level"])
        labels = f'host="alpha",vm="{row["name"]}"'
        assert found[f"vmbackup_vm_level{{{labels}}}"] == level
        for one in (row, *row["also"]):
            kind = f'host="alpha",kind="{one["kind"]}",vm="{row["name"]}"'
            assert found[f"vmbackup_vm_verdict{{{kind}}}"] == 1
    assert [one["kind"] for one in judged["vms"][1]["also"]] == ["disputed"]
    assert found["vmbackup_level"] == 2


def test_what_is_not_known_has_no_sample(site_with_database: Operator) -> None:
    site_with_database.add_vms("web01")
    text = site_with_database.admin("metrics").stdout
    assert "vmbackup_vm_last_copy_timestamp_seconds{" not in text
    assert "vmbackup_host_last_run_timestamp_seconds{" not in text
    level = json.loads(site_with_database.admin("check", "--json").stdout)["level"]
    assert (level, samples(text)["vmbackup_level"]) == ("CRITICAL", 2)


def test_copies_are_counted_on_the_nas(clean: Operator) -> None:
    record = clean.record("web01")
    assert record.uuid == UUID
    put_copy(clean.nas / record.directory, STAMP)
    clean.set("web01", last_copy=replace(copy(), stamp=STAMP))
    found = samples(clean.admin("metrics").stdout)
    labels = '{host="alpha",vm="web01"}'
    files = list((clean.nas / record.directory).glob(f"{STAMP}.*"))
    assert found[f"vmbackup_vm_copies{labels}"] == 1
    assert found[f"vmbackup_vm_copies_bytes{labels}"] == sum(file.stat().st_size for file in files)
    assert f"vmbackup_vm_last_backup_duration_seconds{labels}" in found


def test_a_file_is_replaced_and_everybody_may_read_it(clean: Operator, tmp_path: Path) -> None:
    target = tmp_path / "vmbackup.prom"
    target.write_text("# HELP vmbackup_old\n", encoding="utf-8")
    target.chmod(0o600)
    done = clean.admin("metrics", "--output", str(target))
    assert (done.exit_code, done.stdout) == (0, f"wrote {target}\n")
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert "vmbackup_level" in target.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.glob("*.prom*")] == ["vmbackup.prom"]


def test_a_place_that_is_not_there_is_said(clean: Operator, tmp_path: Path) -> None:
    done = clean.admin("metrics", "--output", str(tmp_path / "missing/vmbackup.prom"))
    assert done.exit_code == 2
    assert "cannot write the metrics" in done.stderr


def test_without_a_database_the_file_stays_as_it_is(operator: Operator, tmp_path: Path) -> None:
    target = tmp_path / "vmbackup.prom"
    target.write_text("old", encoding="utf-8")
    done = operator.admin("metrics", "--output", str(target))
    assert (done.exit_code, target.read_text(encoding="utf-8")) == (10, "old")


def test_without_the_extra_it_is_said_how_to_get_it(
    clean: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    done = clean.admin("metrics")
    assert done.exit_code == 2
    assert "pip install prometheus-client" in done.stderr


def test_programs_get_json(clean: Operator) -> None:
    rows = clean.json("metrics")["metrics"]
    (level,) = [row for row in rows if row["name"] == "vmbackup_nas_level"]
    assert level == {"name": "vmbackup_nas_level", "labels": {}, "value": 0}


def test_the_database_worker_writes_them(clean: Operator, tmp_path: Path) -> None:
    target = tmp_path / "vmbackup.prom"
    clean.settings["metrics"] = {"file": str(target)}
    clean.configure()
    done = CliRunner(env={"VMBACKUP_CONFIG": str(clean.config)}).invoke(
        worker_program, ["database"]
    )
    assert done.exit_code == 0, done.output
    assert "vmbackup_vm_level" in target.read_text(encoding="utf-8")
    target.unlink()
    tmp_path.joinpath("sub").mkdir()
    clean.settings["metrics"] = {"file": str(tmp_path / "none/vmbackup.prom")}
    clean.configure()
    done = CliRunner(env={"VMBACKUP_CONFIG": str(clean.config)}).invoke(
        worker_program, ["database"]
    )
    assert done.exit_code == 1, "a file that is not written is no silence"


@pytest.mark.parametrize("file", ["vmbackup.prom", "/var/lib/vmbackup.txt"])
def test_a_wrong_place_is_refused_with_its_key(clean: Operator, file: str) -> None:
    clean.settings["metrics"] = {"file": file}
    clean.configure()
    done = clean.admin("config", "validate")
    assert done.exit_code == 2
    assert "metrics.file" in done.stderr


@pytest.mark.parametrize("end", ["\n", "\x1b[2K", "\x85", "\u2028"])
def test_no_name_makes_a_metric(clean: Operator, tmp_path: Path, end: str) -> None:
    """Nor a line that no program reads, with which the whole file would be refused."""
    pytest.importorskip("prometheus_client")
    from prometheus_client.parser import text_string_to_metric_families

    names = [f"x{end}vmbackup_level 0{end}y", f"x{ascii(end)[1:-1]}vmbackup_level 0", "a\\b"]
    clean.add_vms(*names)
    target = tmp_path / "vmbackup.prom"
    assert clean.admin("metrics", "--output", str(target)).exit_code == 0
    printed = clean.admin("metrics").stdout
    lines = [line for line in printed.splitlines() if line.startswith("vmbackup_level")]
    assert len(lines) == 1
    for text in (printed, target.read_text(encoding="utf-8")):
        (found,) = [
            family
            for family in text_string_to_metric_families(text)
            if family.name == "vmbackup_vm_level"
        ]
        assert len({sample.labels["vm"] for sample in found.samples}) == 2 + len(names)
