"""Errors for operators, and the one registry of exit codes."""

import re
from pathlib import Path

import pytest

from shared.host import errors
from shared.host.errors import ExitCode, VmBackupError

#: What scripts of users rely on. A number never changes its meaning.
CONTRACT = {
    "DONE": 0,
    "FAILURE": 1,
    "USAGE": 2,
    "SOME_FAILED": 3,
    "SOME_DEFERRED": 4,
    "NO_DATABASE": 10,
    "LOCKED": 11,
    "LOCK_LOST": 12,
    "NAS": 13,
    "VBOXMANAGE": 14,
    "STATE_REFUSED": 15,
    "INTERRUPTED": 130,
    "TERMINATED": 143,
}


KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, VmBackupError)
]


def test_the_codes_keep_their_meaning() -> None:
    found = {code.name: code.value for code in ExitCode}
    assert {name: found.get(name) for name in CONTRACT} == CONTRACT
    assert len(set(found.values())) == len(ExitCode.__members__), "no code has two names"


def test_only_signals_end_with_more_than_125() -> None:
    """The shell uses 126, 127 and 128+n itself."""
    assert {code for code in ExitCode if code > 125} == {ExitCode.INTERRUPTED, ExitCode.TERMINATED}


def test_every_code_is_documented() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "exit-codes.md").read_text(
        encoding="utf-8"
    )
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == sorted(
        ExitCode
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_has_a_code_of_failure_a_message_and_a_hint(kind: type[VmBackupError]) -> None:
    error = kind("what happened", hint="what to do")
    assert error.exit_code in set(ExitCode) - {
        ExitCode.DONE,
        ExitCode.SOME_FAILED,
        ExitCode.SOME_DEFERRED,
    }
    assert (str(error), error.message, error.hint) == (
        "what happened",
        "what happened",
        "what to do",
    )
    assert kind.__doc__
    assert kind.__name__.endswith("Error")


def test_a_code_other_than_failure_and_usage_belongs_to_one_family() -> None:
    """A script that reads 13 knows that it is the NAS."""
    for code in set(ExitCode) - {ExitCode.FAILURE, ExitCode.USAGE}:
        roots = [
            kind
            for kind in KINDS
            if kind.exit_code == code
            and all(base.exit_code != code for base in kind.__bases__ if base in KINDS)
        ]
        assert len(roots) <= 1, (code, roots)


def test_a_message_is_bounded_whatever_it_quotes() -> None:
    """A copy may name a file of megabytes; what is said goes into the database, mail and logs."""
    said = VmBackupError(f"the .ovf refers to {'x' * (16 << 20)!r}")
    assert len(said.message) == len(str(said)) == 10_001


def test_each_exit_code_fits_into_a_line_of_help() -> None:
    """Behind its number, in a terminal of 80 columns."""
    assert {code: code.meaning for code in ExitCode if len(code.meaning) > 70} == {}
