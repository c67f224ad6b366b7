"""Every command in every environment: an answer with a documented exit code, never a traceback.

Commands are those of the programs, so that a new one is here as soon as it can be called. A drawn
part runs, with its seed printed (`VMBACKUP_SEED` gives it again); `VMBACKUP_PROVE=1` has all.
"""

import itertools
import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from shared.host.errors import ExitCode
from tests.support.command_lines import PROGRAMS
from tests.support.copies import ova, put_copy
from tests.support.drawing import SEED, TOLD
from tests.support.proving import PROVE
from tests.unit.coordinator.conftest import Operator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200 if PROVE else 300)]

DRAWN = 14
SECONDS = 100
STAMP = "20261122T203800Z-17"

LOCALES = ({"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C"}, {"LANG": "xx_YY.nonsense"}, {})
UMASKS = (0o022, 0o000, 0o777)
HOMES = ("home", "nowhere", ".", "", None)
DIRECTORIES = ("there", "removed")
CLOSED: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (2,), (0, 1, 2))
LIMITS = ({}, {resource.RLIMIT_NOFILE: 24}, {resource.RLIMIT_FSIZE: 0})


@dataclass(frozen=True)
class Environment:
    locale: dict[str, str]
    umask: int
    home: str | None
    directory: str
    closed: tuple[int, ...]
    limits: dict[int, int]

    def variables(self, folder: Path) -> dict[str, str]:
        passed = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        home = {"home": str(folder / "home"), "nowhere": str(folder / "no" / "home")}
        return {
            **passed,
            **self.locale,
            **({} if self.home is None else {"HOME": home.get(self.home, self.home)}),
        }

    def enter(self, folder: Path) -> None:
        """What the process does before it becomes a program."""
        os.chdir(folder / "home")
        if self.directory == "removed":
            os.mkdir(folder / "gone")
            os.chdir(folder / "gone")
            os.rmdir(folder / "gone")
        os.umask(self.umask)
        for limit, value in self.limits.items():
            resource.setrlimit(limit, (value, value))
        for descriptor in self.closed:
            os.close(descriptor)


ENVIRONMENTS = [
    Environment(*axes)
    for axes in itertools.product(LOCALES, UMASKS, HOMES, DIRECTORIES, CLOSED, LIMITS)
]


def calls() -> Iterator[tuple[str, ...]]:
    """Each command with what it must be given, and the program's help."""
    for name, program in PROGRAMS.items():
        yield name, "--help"
        for word in program.list_commands(click.Context(program)):
            command = program.get_command(click.Context(program), word)
            below = command.commands if isinstance(command, click.Group) else {"": command}
            for inner, leaf in below.items():
                yield tuple(filter(None, (name, word, inner, *_given(leaf))))


def _given(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        if isinstance(parameter, click.Argument) and parameter.required:
            yield STAMP if "stamp" in str(parameter.name) else "日本"
        elif "--yes" in parameter.opts:
            yield "--yes"


#: What an option makes of a command is another one.
BY_OPTION = (
    ("vmbackup-admin", "restore", "日本", "--into", "--dry-run"),
    ("vmbackup-admin", "restore", "日本", "--dry-run"),
    ("vmbackup-admin", "boot", "日本", "--dry-run"),
    ("vmbackup-admin", "boot", "日本", "--finish"),
    ("vmbackup-admin", "rehearse", "日本", "--boot", "--dry-run"),
    ("vmbackup-admin", "files", "日本", "/", "--get", "."),
    ("vmbackup-worker", "backup", "--dry-run"),
)
CALLS = [*calls(), *BY_OPTION]


def test_every_environment_has_an_answer(site_with_database: Operator) -> None:
    operator = site_with_database
    operator.add_vms("日本")
    put_copy(operator.nas / "日本", STAMP, ova(), vm="日本", node="alpha")
    (operator.folder / "home").mkdir()
    cells = list(itertools.product(CALLS, ENVIRONMENTS))
    some = random.Random(SEED)
    if PROVE:  # each command, and each value of each axis with each command, many times over
        chosen = [(call, one) for call in CALLS for one in some.sample(ENVIRONMENTS, 40)]
    else:
        chosen = some.sample(cells, DRAWN)
    answers = [(call, one, problem(operator, call, one)) for call, one in chosen]
    wrong = [f"{call} in {one}: {said}" for call, one, said in answers if said]
    print(f"{TOLD}: {len(chosen)} of {len(cells)} cells, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)


def problem(operator: Operator, call: tuple[str, ...], environment: Environment) -> str:
    """What is wrong with the answer; empty if nothing."""
    program = Path(sys.executable).parent / call[0]
    variables = environment.variables(operator.folder)
    before = sorted((operator.folder / "home").iterdir())
    try:
        done = subprocess.run(
            [program, *call[1:]],
            env={**variables, "VMBACKUP_CONFIG": str(operator.config)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=SECONDS,
            preexec_fn=lambda: environment.enter(operator.folder),
        )
    except subprocess.TimeoutExpired:
        return f"no end within {SECONDS} s"
    said = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode not in [code.value for code in ExitCode]:
        return f"exit code {done.returncode}: {said[-600:]}"
    for word in ("Traceback", "Fatal Python error", "Exception ignored"):
        if word in said:
            return said[-900:]
    made = sorted((operator.folder / "home").iterdir())
    return "" if made == before else f"made {made}"
