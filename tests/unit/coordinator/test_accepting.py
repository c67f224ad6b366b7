"""`statedb accept`: another database than the one that a host has seen is accepted on purpose."""

import os
import shutil
from dataclasses import replace

import pytest

from shared.frozen.directory import CloneDirectory
from shared.host.errors import ExitCode
from shared.state.store.layout import generation_name
from shared.state.store.opening import read_version
from shared.state.store.repair import rebuild_version, replace_version
from tests.unit.coordinator.conftest import Operator
from tests.unit.coordinator.test_reading import tree

REBUILT = "2026-11-29T03:00:00Z-0123abcd"


def used(operator: Operator) -> Operator:
    """A host that has seen some generations."""
    for name in ("web", "db"):
        operator.add_vms(name)
    operator.site().database.commit_once(
        lambda contents: replace(contents, claims_granted=7), "seen by this host", "test"
    )
    assert operator.site().database.seen.generation == 4
    return operator


def roll_back(operator: Operator) -> None:
    """The newest generation is gone, as after a restore of the NAS."""
    (operator.vmstate / "gen" / generation_name(4)).unlink()


def status(operator: Operator) -> ExitCode:
    """What a command that changes something says: one without a VM commits nothing."""
    return ExitCode(operator.lock("recover").exit_code)


def test_nothing_to_accept(site_with_database: Operator) -> None:
    operator = used(site_with_database)
    said = operator.json("statedb", "accept")
    assert (said["differs"], said["accepted"], said["dry_run"]) == (None, False, False)
    assert said["known"]["repository"] == said["there"]["repository"]
    assert (said["known"]["generation"], said["there"]["generation"]) == (4, 4)
    assert "nothing to accept" in operator.admin("statedb", "accept").stdout


def test_a_database_that_was_rolled_back(site_with_database: Operator) -> None:
    operator = used(site_with_database)
    roll_back(operator)
    refused = operator.lock("recover")
    assert refused.exit_code == ExitCode.FAILURE
    assert "`vmbackup-admin statedb accept` on each host" in refused.stderr
    before = tree(operator.folder)
    said = operator.json("statedb", "accept", "--dry-run")
    assert "it ends at generation 3, but this host has seen 4" in said["differs"]
    assert (said["there"]["generation"], said["there"]["vms"]) == (3, 2)
    assert (said["accepted"], said["dry_run"]) == (False, True)
    assert tree(operator.folder) == before
    nas = tree(operator.nas)
    assert operator.json("statedb", "accept", "--yes")["accepted"]
    assert tree(operator.nas) == nas
    assert status(operator) == ExitCode.DONE


def test_without_a_terminal_it_does_not_ask(site_with_database: Operator) -> None:
    operator = used(site_with_database)
    roll_back(operator)
    result = operator.admin("statedb", "accept")
    assert result.exit_code == ExitCode.USAGE
    assert "--yes" in result.stderr
    assert status(operator) == ExitCode.FAILURE


@pytest.mark.parametrize("answered", ["y", "n"])
def test_it_shows_what_is_there_and_asks(
    site_with_database: Operator, monkeypatch: pytest.MonkeyPatch, answered: str
) -> None:
    operator = used(site_with_database)
    roll_back(operator)
    asked: list[str] = []

    def confirm(question: str, **_: bool) -> bool:
        asked.append(question)
        return answered == "y"

    monkeypatch.setattr("coordinator.confirming.is_terminal", lambda: True)
    monkeypatch.setattr("click.confirm", confirm)
    result = operator.admin("statedb", "accept")
    assert "up to generation 4" in asked[0]
    assert "at generation 3 with 2 VMs; the last commit is of alpha" in asked[0]
    assert result.exit_code == (ExitCode.DONE if answered == "y" else ExitCode.FAILURE)
    assert status(operator) == (ExitCode.DONE if answered == "y" else ExitCode.FAILURE)


def test_another_repository(site_with_database: Operator) -> None:
    """The NAS was replaced, or `init` made a new database there."""
    operator = used(site_with_database)
    first = operator.site().database.version.repository
    shutil.rmtree(operator.vmstate)
    (operator.nas / "archive" / ".vmbackup-archive").unlink()
    operator.create()
    refused = operator.admin("status")
    assert refused.exit_code == ExitCode.NAS
    assert "`vmbackup-admin statedb accept`" in refused.stderr
    kept = CloneDirectory.of(operator.folder / "state-alpha", operator.folder, first, "uuid-web")
    kept.make()
    (kept.path / "3-0.frozen").touch()
    operator.json("statedb", "accept", "--dry-run")
    assert [claim for claim, _ in kept.clones()] == [3]
    said = operator.json("statedb", "accept", "--yes")
    assert not (operator.folder / ".vmbackup").exists()
    assert not kept.note.path.exists()
    assert said["known"]["repository"] == first
    assert said["there"]["repository"] == operator.database().version.repository != first
    assert operator.admin("status").exit_code == ExitCode.DONE


def test_a_nas_that_holds_no_database_any_more(site_with_database: Operator) -> None:
    """Only then `init` makes one there."""
    operator = used(site_with_database)
    shutil.rmtree(operator.vmstate)
    (operator.nas / "archive" / ".vmbackup-archive").unlink()
    assert operator.admin("init").exit_code == ExitCode.NAS
    said = operator.json("statedb", "accept", "--yes")
    assert (said["there"]["repository"], said["accepted"]) == (None, True)
    assert operator.admin("statedb", "accept", "--yes").exit_code == ExitCode.NO_DATABASE
    assert operator.admin("init").exit_code == ExitCode.DONE


def test_one_that_was_made_anew_under_the_same_repository(site_with_database: Operator) -> None:
    """Whatever its numbers are: what a host has seen is not in its history."""
    operator = used(site_with_database)
    version = read_version(operator.vmstate)
    replace_version(operator.vmstate, replace(version, rebuilt=REBUILT))
    assert "REBUILT" not in version.render().decode()
    refused = operator.lock("recover")
    assert refused.exit_code == ExitCode.FAILURE
    assert f"was made anew from the copies ({REBUILT})" in refused.stderr
    assert operator.json("statedb", "accept", "--yes")["there"]["rebuilt"] == REBUILT
    assert status(operator) == ExitCode.DONE
    operator.site().database.commit_once(
        lambda contents: replace(contents, claims_granted=8), "more", "test"
    )
    assert status(operator) == ExitCode.DONE
    path = operator.vmstate / "vmtool-db-version"
    path.write_text(path.read_text().replace("PUBLISH: link", "PUBLISH: what"))
    rebuild_version(operator.vmstate)
    assert read_version(operator.vmstate).rebuilt == REBUILT
    assert status(operator) == ExitCode.DONE


def test_a_database_that_cannot_be_read_is_not_accepted(site_with_database: Operator) -> None:
    operator = used(site_with_database)
    (operator.vmstate / "gen" / generation_name(4)).write_bytes(b"nonsense")
    result = operator.admin("statedb", "accept", "--yes")
    assert result.exit_code == ExitCode.FAILURE
    assert "statedb check" in result.stderr


def test_not_on_a_nas_that_is_away(site_with_database: Operator) -> None:
    operator = used(site_with_database)
    os.rename(operator.nas, operator.folder / "away")
    assert operator.admin("statedb", "accept", "--yes").exit_code == ExitCode.NAS
