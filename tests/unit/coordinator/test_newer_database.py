"""A database of a newer program: what can be read is read and said to be too new.

Nothing is written, by any command or worker.
"""

import json
import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from coordinator.admin import program as admin_program
from coordinator.lock import program as lock_program
from shared.host.errors import ExitCode
from tests.support.copies import ova, put_copy
from tests.support.formats import give_format
from tests.unit.coordinator.conftest import Operator
from worker.cli import program as worker_program

PROGRAMS: dict[str, click.Command] = {
    "admin": admin_program,
    "lock": lock_program,
    "worker": worker_program,
}
WHERE = [(True, True), (True, False), (False, True)]
READING = [
    *(
        "admin status",
        "admin copies",
        "admin copies web",
        "admin show web",
        "admin log",
        "admin verify --all --dry-run",
        "admin verify --all",
        "admin verify web",
        "admin rehearse web --dry-run",
    ),
    *("admin prune --dry-run", "lock list", "worker verify --dry-run", "worker backup --dry-run"),
]
WRITING = [
    *("worker vmfind", "worker notifier", "worker backup", "worker verify", "worker database"),
    *(
        "admin archive web",
        "admin archive web --dry-run",
        "admin activate web",
        "admin forget web",
        "admin prune",
    ),
    *(
        "admin pin web 20261122T203800Z-17",
        "admin unpin web 20261122T203800Z-17",
        "admin init",
        "admin statedb migrate",
    ),
    *(
        "admin statedb adopt",
        "admin statedb upgrade",
        "admin statedb upgrade --dry-run",
        "admin statedb check --set-aside 2",
    ),
    *(
        "admin statedb check --rebuild-version",
        "lock recover",
        "lock recover beta",
        "lock break web",
        "lock break web --force",
    ),
]


@pytest.fixture(params=WHERE, ids=["both", "generation", "file"])
def newer(request: pytest.FixtureRequest, site_with_database: Operator) -> Operator:
    """A database of version 3.0 that knows the VM web.

    An interrupted upgrade may have left either half of the news.
    """
    site_with_database.add_vms("web")
    put_copy(site_with_database.nas / "web", "20261122T203800Z-17", ova())
    (site_with_database.nas / "archive").mkdir(exist_ok=True)
    generation, file = request.param
    give_format(site_with_database.vmstate, "3.0", generation=generation, file=file)
    return site_with_database


def run(operator: Operator, line: str) -> Result:
    program, *arguments = line.split()
    return CliRunner().invoke(PROGRAMS[program], ["--config", str(operator.config), *arguments])


def tree(nas: Path) -> dict[str, tuple[int, bytes]]:
    """All that is on the NAS, to the bytes, and to the times, which tell of what came and went."""
    return {
        str(path): (os.lstat(path).st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [nas, *sorted(nas.rglob("*"))]
    }


@pytest.mark.parametrize("line", READING)
def test_what_can_be_read_is_read_and_said_to_be_too_new(newer: Operator, line: str) -> None:
    before = tree(newer.nas)
    result = run(newer, line)
    assert result.exit_code == ExitCode.DONE, result.output
    assert result.stderr.count("version 3.0; this program knows up to 2.0") == 1
    assert "update vmbackup here" in result.stderr
    assert tree(newer.nas) == before


@pytest.mark.parametrize(
    "line", ["admin status", "admin copies", "admin show web", "admin log", "lock list"]
)
def test_json_has_the_warning_too(newer: Operator, line: str) -> None:
    document = json.loads(run(newer, f"{line} --json").stdout)
    assert "version 3.0" in document["warnings"][0]


@pytest.mark.parametrize("line", WRITING)
def test_what_writes_refuses_before_its_first_write(newer: Operator, line: str) -> None:
    before = tree(newer.nas)
    result = run(newer, line)
    assert result.exit_code == ExitCode.FAILURE, result.output
    assert "version 3.0; this program knows up to 2.0" in result.stderr
    assert "hint: update vmbackup on this host" in result.stderr
    assert tree(newer.nas) == before


def test_the_doctor_says_so_and_tries_nothing_out(newer: Operator) -> None:
    before = tree(newer.nas)
    checks = json.loads(run(newer, "admin doctor --json").stdout)["checks"]
    assert {check["name"]: check["verdict"] for check in checks}["NAS: use"] == "fail"
    assert any(
        "version 3.0" in check["seen"] for check in checks if check["name"].startswith("database")
    )
    assert tree(newer.nas) == before


def test_the_check_says_so(newer: Operator) -> None:
    result = run(newer, "admin statedb check")
    assert (result.exit_code, "version 3.0" in result.stdout) == (ExitCode.FAILURE, True)


def test_lines_that_only_a_newer_program_understands_are_no_damage(newer: Operator) -> None:
    path = max((newer.vmstate / "gen").iterdir())
    path.write_bytes(b"vmbackup-state 3.0\nin another language\n")
    result = run(newer, "admin status")
    assert (result.exit_code, "damaged" in result.stderr) == (ExitCode.FAILURE, False)
    assert "hint: update vmbackup on this host" in result.stderr


def test_an_old_format_is_mentioned_with_the_command(site_with_database: Operator) -> None:
    give_format(site_with_database.vmstate, "1.1")
    assert site_with_database.json("status")["database_version"] == "1.1"
    assert site_with_database.json("status")["warnings"] == []
    checks = {
        check["name"]: check
        for check in json.loads(site_with_database.admin("doctor", "--json").stdout)["checks"]
    }
    assert checks["database: format"]["verdict"] == "warn"
    assert "vmbackup-admin statedb upgrade" in checks["database: format"]["hint"]
    assert site_with_database.admin("statedb", "upgrade", "--dry-run").stdout.startswith(
        "would upgrade"
    )
    assert site_with_database.json("statedb", "upgrade") == {
        "schema": 1,
        "from": "1.1",
        "to": "2.0",
        "upgraded": True,
        "dry_run": False,
    }
    assert "2.0 already" in site_with_database.admin("statedb", "upgrade").stdout
    checks = {
        check["name"]: check
        for check in json.loads(site_with_database.admin("doctor", "--json").stdout)["checks"]
    }
    assert checks["database: format"]["verdict"] == "ok"
