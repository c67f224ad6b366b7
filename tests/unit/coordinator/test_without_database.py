"""Copies are listed, verified and restored while the database is lost, damaged, or foreign."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.host.errors import ExitCode
from shared.state.store import protocol
from tests.support.copies import ova, put_copy
from tests.unit.coordinator.conftest import Operator, uuid
from tests.unit.coordinator.test_reading import damage, tree

OLD, NEW, LAST = "20261121T000000Z-9", "20261122T203800Z-17", "20261123T203800Z-18"


@pytest.fixture(autouse=True)
def empty_is_believed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For how long it is not is shown in `tests/unit/state/test_protocol.py`."""
    monkeypatch.setattr(protocol, "EMPTY_SECONDS", 0.0)


@pytest.fixture
def filled(site_with_database: Operator) -> Operator:
    """Two VMs with records, one of them archived; and namesakes on two hosts."""
    operator = site_with_database
    operator.add_vms("web")
    operator.add_vms("web", node="beta")
    put_copy(operator.nas / "web", OLD, ova(), vm="web", node="alpha")
    put_copy(
        operator.nas / "web", NEW, ova(), vm="web", node="alpha", pinned="2026-11-22T21:00:00Z"
    )
    put_copy(operator.nas / "archive" / "old", LAST, ova(), vm="web", node="beta", uuid=uuid(1))
    operator.json("status")  # this host knows the repository from now on
    operator.site()
    return operator


def deleted(operator: Operator) -> None:
    shutil.rmtree(operator.vmstate)


def truncated(operator: Operator) -> None:
    for path in (operator.vmstate / "gen").iterdir():
        path.unlink()
        path.write_bytes(b"")
    (operator.vmstate / "vmtool-db-version").write_bytes(b"")


def foreign(operator: Operator) -> None:
    other = Operator(operator.folder / "elsewhere")
    other.nas.mkdir(parents=True)
    other.configure()
    other.create()
    shutil.rmtree(operator.vmstate)
    shutil.copytree(other.vmstate, operator.vmstate)


def emptied(operator: Operator) -> None:
    shutil.rmtree(operator.vmstate / "gen")
    (operator.vmstate / "gen").mkdir()


LOST = [deleted, truncated, foreign, emptied]


@pytest.mark.parametrize("lose", LOST)
class TestWithoutDatabase:
    def test_the_directories_tell_of_all_copies(
        self, filled: Operator, lose: Callable[[Operator], None]
    ) -> None:
        lose(filled)
        before = tree(filled.nas)
        document = filled.json("copies")
        assert document["database"] == "none"
        assert [
            (row["name"], row["node"], row["uuid"], row["stamp"], row["archived"], row["pinned"])
            for row in document["copies"]
        ] == [
            ("web", "beta", uuid(1), LAST, True, False),
            ("web", "alpha", uuid(0), OLD, False, False),
            ("web", "alpha", uuid(0), NEW, False, True),
        ]
        assert all(row["good"] and not row["listed"] for row in document["copies"])
        assert any("nothing is noted" in warning for warning in document["warnings"])
        assert tree(filled.nas) == before

    def test_namesakes_are_chosen_by_uuid_or_directory(
        self, filled: Operator, lose: Callable[[Operator], None]
    ) -> None:
        lose(filled)
        refused = filled.admin("copies", "web")
        assert refused.exit_code == ExitCode.USAGE
        assert uuid(0) in refused.stderr
        assert str(filled.nas / "archive" / "old") in refused.stderr
        for vm in (uuid(1).upper(), str(filled.nas / "archive" / "old") + "/", "web@none"):
            if vm == "web@none":
                assert filled.admin("copies", vm).exit_code == ExitCode.USAGE
            else:
                assert [row["stamp"] for row in filled.json("copies", vm)["copies"]] == [LAST]

    def test_verify_reads_and_notes_nothing(
        self, filled: Operator, lose: Callable[[Operator], None]
    ) -> None:
        lose(filled)
        path = filled.nas / "web" / f"{OLD}.ova"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        before = tree(filled.nas)
        result = filled.admin("verify", "--all", "--json")
        assert result.exit_code == ExitCode.SOME_FAILED, result.output
        document = json.loads(result.stdout)
        assert document["database"] == "none"
        assert {(row["stamp"], row["good"], row["archived"]) for row in document["copies"]} == {
            (OLD, False, False),
            (NEW, True, False),
            (LAST, True, True),
        }
        assert tree(filled.nas) == before

    def test_what_writes_is_refused(
        self, filled: Operator, lose: Callable[[Operator], None]
    ) -> None:
        lose(filled)
        before = tree(filled.nas)
        for line in (("pin", uuid(0), OLD), ("archive", uuid(0)), ("remove", uuid(0), OLD)):
            assert filled.admin(*line).exit_code in (1, ExitCode.NO_DATABASE, ExitCode.NAS)
        assert tree(filled.nas) == before


def test_the_newest_generation_damaged_the_one_before_counts(filled: Operator) -> None:
    filled.set("web", failures=1)
    number = damage(filled)
    document = filled.json("copies", "web")
    assert document["database"] == "earlier"
    assert [row["stamp"] for row in document["copies"]] == [OLD, NEW]
    assert f"generation {number - 1}" in document["warnings"][0]
    before = tree(filled.vmstate)
    result = filled.admin("verify", "web", "--json")
    assert (result.exit_code, json.loads(result.stdout)["database"]) == (0, "earlier")
    assert tree(filled.vmstate) == before


def test_a_nas_that_is_not_ours_stays_an_error(filled: Operator) -> None:
    other = Operator(filled.folder / "elsewhere")
    other.nas.mkdir(parents=True)
    other.configure()
    other.create()
    put_copy(other.nas / "web", OLD)
    shutil.rmtree(filled.nas)
    shutil.copytree(other.nas, filled.nas)
    for what in ("copies", "restore"):
        result = filled.admin(what, *([] if what == "copies" else [uuid(0)]))
        assert result.exit_code == ExitCode.NAS
        assert "is the right NAS mounted?" in result.stderr
    shutil.rmtree(filled.vmstate)
    result = filled.admin("copies")
    assert (result.exit_code, "another repository" in result.stderr) == (ExitCode.NAS, True)


def test_an_empty_directory_is_one_clear_error(filled: Operator, tmp_path: Path) -> None:
    shutil.rmtree(filled.nas)
    filled.nas.mkdir()
    result = filled.admin("copies")
    assert result.exit_code == ExitCode.NAS
    assert "is the right NAS mounted?" in result.stderr
    shutil.rmtree(filled.folder / "state-alpha")
    assert filled.admin("copies").exit_code == ExitCode.NO_DATABASE


def test_the_sentence_of_the_lost_database_leads_to_the_copies(filled: Operator) -> None:
    deleted(filled)
    result = filled.admin("status")
    assert result.exit_code == ExitCode.NAS
    assert "if only the database is lost" in result.stderr
    assert "vmbackup-admin copies" in result.stderr
