"""What an archive that is gone, or another one, never does.

It is not marked, and nobody says that archived VMs have no copies.
"""

import os
import shutil
from pathlib import Path

import pytest

from shared.copies.archive_marker import ARCHIVE_MARKER
from shared.host.errors import ExitCode
from shared.state.states import State
from tests.support.copies import put_copy
from tests.unit.coordinator.conftest import Operator, copy, uuid
from tests.unit.coordinator.test_archive_missing import unmount
from worker import verify

STAMP = "20261122T203800Z-17"


@pytest.fixture
def operator(site_with_database: Operator) -> Operator:
    """`old` and `older` are archived, `web` is not; all have a copy."""
    operator = site_with_database
    operator.add_vms("web", "old", "older")
    put_copy(operator.nas / "web", STAMP, b"web")
    operator.set("web", status=State.CLEAN, last_copy=copy(STAMP))
    for number, key in ((1, "old"), (2, "older")):
        put_copy(operator.nas / "archive" / key, STAMP, key.encode(), uuid=uuid(number))
        operator.set(key, status=State.ARCHIVED, last_copy=copy(STAMP))
    return operator


def files(operator: Operator) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(operator.nas.rglob("*")) if path.is_file()}


def test_init_marks_no_archive_that_is_not_mounted(operator: Operator) -> None:
    unmount(operator)
    before = files(operator)
    for attempt in (("init", "--dry-run"), ("init",), ("init",)):
        result = operator.admin(*attempt)
        assert result.exit_code in {ExitCode.NAS, ExitCode.LOCKED}, result.output
    assert ("it is not mounted" in result.stderr, result.exit_code) == (True, ExitCode.NAS)
    assert files(operator) == before
    assert operator.admin("activate", "old").exit_code == ExitCode.NAS
    operator.configure(archive_directory="attic")
    assert operator.admin("init").exit_code == ExitCode.NAS
    assert (files(operator), (operator.nas / "attic").exists()) == (before, False)


def test_an_init_that_was_killed_before_the_archive_is_finished(operator: Operator) -> None:
    for place in (operator.nas / "archive", operator.vmstate, operator.folder / "state-alpha"):
        shutil.rmtree(place, ignore_errors=True)
    operator.create()
    shutil.rmtree(operator.nas / "archive")
    result = operator.admin("init")
    assert result.exit_code == ExitCode.LOCKED, result.output
    assert (operator.nas / "archive" / ARCHIVE_MARKER).exists()


def test_nobody_commits_that_an_archived_vm_without_its_directory_has_no_copy(
    operator: Operator,
) -> None:
    os.rename(operator.nas / "archive" / "old", operator.folder / "old")
    operator.set("old", verified="2020-01-01T00:00:00Z")
    before, generations = operator.record("old"), []
    for _tick in range(2):
        outcome = verify.run(operator.site())
        assert (outcome.failed, outcome.exit_code) == (["old"], ExitCode.NAS)
        generations.append(operator.database().head().generation)
    assert generations[0] == generations[1], (
        "the other VMs are looked at once, and this one costs no commit"
    )
    for command in (("verify", "old"), ("activate", "old"), ("activate", "old", "--dry-run")):
        result = operator.admin(*command)
        assert (result.exit_code, str(operator.nas / "archive" / "old") in result.stderr) == (
            ExitCode.NAS,
            True,
        ), result.output
        assert "`vmbackup-admin forget old`" in result.stderr
    assert operator.admin("verify", "--all").exit_code == ExitCode.SOME_FAILED
    assert operator.record("old") == before
    os.rename(operator.folder / "old", operator.nas / "archive" / "old")
    assert operator.admin("activate", "old").exit_code == ExitCode.DONE


def test_another_directory_with_the_same_marker_is_not_the_archive(operator: Operator) -> None:
    (operator.nas / "arch2").mkdir()
    shutil.copy(operator.nas / "archive" / ARCHIVE_MARKER, operator.nas / "arch2")
    operator.configure(archive_directory="arch2")
    before = files(operator)
    for command in (
        ("copies",),
        ("copies", "old"),
        ("show", "old"),
        ("restore", "old", "--dry-run"),
        ("archive", "web"),
        ("verify", "old"),
    ):
        result = operator.admin(*command)
        assert (result.exit_code, "none of the 2 archived VMs is in" in result.stderr) == (
            ExitCode.NAS,
            True,
        ), (command, result.output)
    assert "FAIL  NAS: archive: none of the 2 archived VMs" in operator.admin("doctor").stdout
    assert {
        path: text for path, text in files(operator).items() if operator.vmstate not in path.parents
    } == {path: text for path, text in before.items() if operator.vmstate not in path.parents}


def test_one_directory_that_is_missing_in_the_archive_is_named(operator: Operator) -> None:
    shutil.rmtree(operator.nas / "archive" / "old")
    for command in (("copies",), ("copies", "old"), ("show", "old")):
        result = operator.admin(*command)
        assert f"there is no directory {operator.nas}/archive/old" in result.stderr, (
            command,
            result.output,
        )
    assert "archive/old" not in operator.admin("copies", "older").stderr
    assert (
        f"WARN  NAS: archive: {operator.nas}/archive lacks the copies of archived VMs: old"
        in operator.admin("doctor").stdout
    )


@pytest.mark.parametrize("place", ["web", "web/x"])
@pytest.mark.parametrize("marked", [False, True])
def test_an_archive_in_the_directory_of_a_vm_is_called_that(
    operator: Operator, place: str, *, marked: bool
) -> None:
    operator.configure(archive_directory=place)
    if marked:
        (operator.nas / place).mkdir(exist_ok=True)
        shutil.copy(operator.nas / "archive" / ARCHIVE_MARKER, operator.nas / place)
    for command in (("config", "validate"), ("archive", "web"), ("archive", "web", "--dry-run")):
        result = operator.admin(*command)
        assert (result.exit_code, "the directory of a VM" in result.stderr) == (
            ExitCode.USAGE,
            True,
        ), (command, result.output)
        assert ARCHIVE_MARKER not in result.stderr
    assert "the directory of a VM" in operator.admin("doctor").stdout


def test_the_newest_copy_that_is_gone_makes_verify_say_so(operator: Operator) -> None:
    (operator.nas / "web" / f"{STAMP}.ova").unlink()
    result = operator.admin("verify", "web")
    assert (result.exit_code, f"the newest copy {STAMP} is gone" in result.stderr) == (
        ExitCode.SOME_FAILED,
        True,
    )
    assert operator.admin("verify", "web").exit_code == ExitCode.DONE


def test_a_path_in_a_command_to_copy_is_quoted(operator: Operator) -> None:
    operator.configure(archive_directory="name with space")
    assert (
        f"mkdir -p '{operator.nas}/name with space' &&" in operator.admin("archive", "web").stderr
    )
