"""What a shell completes: what the state database has, quickly, and nothing if the NAS is away."""

import time
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from coordinator.admin import program as admin
from coordinator.lock import program as lock
from shared import completion
from shared.host.configuration.schema import schema
from shared.program import Program
from shared.state.hold import Hold
from shared.state.host_records import NodeRecord
from tests.support.copies import put_copy
from tests.unit.coordinator.conftest import WHEN, Operator

STAMP = "20261122T203800Z-17"


def completed(program: Program, *words: str) -> list[str]:
    """What is offered for the last word."""
    shell = ShellComplete(program, {}, str(program.name), "_X_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


@pytest.fixture
def filled(site_with_database: Operator, monkeypatch: pytest.MonkeyPatch) -> Operator:
    operator = site_with_database
    operator.add_vms("web01", "web 02", "db")
    put_copy(operator.nas / "web01", STAMP)
    monkeypatch.setenv("VMBACKUP_CONFIG", str(operator.config))
    return operator


def test_commands_are_offered_without_importing_them() -> None:
    assert completed(admin, "re") == ["restore", "rehearse", "remove", "report"]
    assert completed(admin, "config", "g") == ["generate"]


def test_names_of_vms_and_stamps_of_their_copies(filled: Operator) -> None:
    assert completed(admin, "show", "") == ["db", "web 02", "web01"]
    assert completed(admin, "show", "we") == ["web 02", "web01"]
    assert completed(admin, "pin", "web01", "2") == [STAMP]
    assert completed(admin, "pin", "db", "") == []
    assert completed(admin, "restore", "web01", "--copy", "") == [STAMP, "latest", "previous"]
    assert completed(admin, "--config", str(filled.config), "check", "d") == ["db"]


def test_bash_gets_names_as_they_are_typed(
    filled: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_VMBACKUP_ADMIN_COMPLETE", "bash_complete")
    assert completed(admin, "show", "web ") == ["'web 02'"]


def test_names_of_holds_and_of_what_runs_from_a_copy(filled: Operator) -> None:
    state = filled.configuration.host.state_directory
    state.mkdir(exist_ok=True)
    for number, text in enumerate(('{"name": "web 03"}', '{"name": 1', "[]")):
        (state / f"boot-{number}.json").write_text(text, encoding="utf-8")
    filled.set("db", holds=(Hold(STAMP, "alpha", "web 03", WHEN),))
    assert completed(lock, "break", "") == ["alpha:web 03", "db", "web 02", "web01"]
    assert completed(lock, "show", "al") == ["alpha:web 03"]
    assert completed(admin, "boot", "--finish", "") == ["web 03"]
    assert completed(admin, "boot", "--discard", "w") == ["web 03"]
    assert completed(admin, "boot", "we") == ["web 02", "web01"]


def test_names_of_hosts(filled: Operator) -> None:
    filled.commit(lambda contents: contents.with_node(NodeRecord("beta", "machine-beta")))
    assert "beta" in completed(lock, "recover", "b")


@pytest.mark.parametrize("what", ["no NAS", "no configuration", "a wrong one", "damaged"])
def test_without_a_nas_there_is_silence(
    filled: Operator,
    what: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if what == "no NAS":
        filled.nas.rename(filled.folder / "elsewhere")
    elif what == "no configuration":
        monkeypatch.setenv("VMBACKUP_CONFIG", "/no/where")
    elif what == "a wrong one":
        filled.config.write_text("nas = 7 [", encoding="utf-8")
    else:
        for generation in (filled.vmstate / "gen").iterdir():
            generation.write_bytes(b'vms 1\n{"key": 1\n\xff')
    assert completed(admin, "show", "") == []
    assert capfd.readouterr() == ("", "")


def test_a_nas_that_hangs_is_given_up_after_a_moment() -> None:
    begun = time.monotonic()
    assert completion.within(lambda: time.sleep(60) or ["late"]) == []
    assert time.monotonic() - begun < 5
    assert completion.within(lambda: ["early"], 20) == ["early"]


def test_the_schema_knows_every_section_and_sizes_with_units() -> None:
    made = schema()
    assert "required" not in made
    assert made["additionalProperties"] is False
    reserve = made["$defs"]["Nas"]["properties"]["reserve"]
    assert {each["type"] for each in reserve["anyOf"]} == {"integer", "string"}
    assert made["$defs"]["Nas"]["properties"]["mountpoint"].get("default") is None
    assert Path(made["title"]).name == "vmbackup"
