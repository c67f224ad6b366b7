"""Every command that an answer or a refusal names can be pasted: it has the given `--config`."""

import re
import shlex

import pytest
from click.testing import CliRunner, Result

from coordinator import admin, lock
from shared.command_line import Invocation
from shared.output import answer, with_configuration
from shared.program import Program
from shared.state.hold import Hold
from shared.state.states import State
from tests.support.copies import put_copy
from tests.unit.coordinator.conftest import Operator, copy
from tests.unit.coordinator.test_holds import STAMPS, TITLE, place

#: One of ours that is followed by a command (no "on this host"), so without `--config`.
_BARE = re.compile(r"(?<!\S)`?(?:vmbackup-(?:admin|lock|worker)) (?!on )[a-z][^;,`\n]*")
_ELSEWHERE = re.compile(r"\bon beta: $")
#: Which look, or are refused: a program, and what it is given.
_COMMANDS = (
    *(
        (admin.program, words)
        for words in (
            "status",
            "check",
            "show web",
            "copies web",
            "archive web",
            "archive web --dry-run",
            f"remove web {STAMPS[0]}",
            "forget web",
            "activate web",
            "show nobody",
            "boot --finish nobody",
            "restore web --into --finish",
            "restore web --into --undo",
            "prune --dry-run",
            "verify --due --dry-run",
            "doctor",
        )
    ),
    *(
        (lock.program, words)
        for words in ("list", "show web", f"show {TITLE}", f"break {TITLE}", "show nobody")
    ),
)


def bare(told: str) -> list[str]:
    """The commands that lack the configuration, but for those that another host needs."""
    found = _BARE.finditer(told)
    return [each[0] for each in found if not _ELSEWHERE.search(told[: each.start()])]


def run(operator: Operator, program: Program, *words: str) -> Result:
    return CliRunner().invoke(program, ["--config", str(operator.config), *words])


@pytest.fixture
def web(operator: Operator) -> Operator:
    """A VM with copies, of which one is held from this host."""
    operator.create(lease_seconds=60.0)
    operator.add_vms("web")
    operator.set("web", status=State.CLEAN, last_copy=copy(STAMPS[-1]))
    for stamp in STAMPS:
        put_copy(operator.nas / "web", stamp)
    place(operator)
    return operator


@pytest.mark.parametrize("as_json", [False, True])
def test_what_commands_say_of_a_held_copy(web: Operator, *, as_json: bool) -> None:
    for program, words in _COMMANDS:
        told = run(web, program, *words.split(), *["--json"] * as_json).output
        assert bare(told) == [], (words, told)


def test_its_own_host_is_told_what_it_can_paste(web: Operator) -> None:
    """The end of a hold is a command for the host where the VM runs, and this is that one."""
    config = shlex.quote(str(web.config))
    finish = f"on alpha: vmbackup-admin --config {config} boot --finish web-now"
    for program, words in (
        (lock.program, ("list",)),
        (lock.program, ("show", "web")),
        (admin.program, ("archive", "web")),
        (admin.program, ("remove", "web", STAMPS[0])),
        (admin.program, ("forget", "web")),
    ):
        told = run(web, program, *words).output
        assert finish in told, told
        assert f"vmbackup-lock --config {config} break {TITLE} --force" in told


def test_another_host_has_its_own_configuration() -> None:
    ends = Hold("x", "beta", "web", "2026-11-22T20:38:00Z").ends
    told = with_configuration(ends, "/x.toml", "alpha")
    assert "on beta: vmbackup-admin boot --finish web" in told
    assert "vmbackup-lock --config /x.toml break" in told
    assert "on beta: vmbackup-admin --config /x.toml boot" in with_configuration(
        ends, "/x.toml", "beta"
    )


def test_what_a_command_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """As `restore --into` and `boot` name what ends what they have begun."""
    invocation = Invocation("vmbackup-admin", config="my site.toml")
    with admin.program.make_context("vmbackup-admin", ["status"], obj=invocation).scope():
        answer({}, "then `vmbackup-admin restore --into --finish web`", as_json=False)
    told = capsys.readouterr().out
    assert told == "then `vmbackup-admin --config 'my site.toml' restore --into --finish web`\n"
