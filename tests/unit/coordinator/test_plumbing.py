"""The plumbing of all programs: help, errors, exit codes, lazy loading."""

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from coordinator import admin, lock
from shared.command_line import documented, json_option
from shared.host.errors import ExitCode, LockedError, VmBackupError
from shared.output import with_configuration
from shared.program import Program
from tests.unit.coordinator.conftest import UUID, Operator, copy
from worker.cli import program as worker_program

LACKING: dict[str, tuple[Exception, str]] = {
    "threads": (RuntimeError("can't start new thread"), "no more threads"),
    "memory": (MemoryError(), "no more memory"),
    "processes": (OSError(errno.EAGAIN, "try again"), "no more processes"),
    "files": (OSError(errno.EMFILE, "too many"), "no more open files"),
}


@documented(example="try it", codes=[ExitCode.LOCKED])
@click.argument("what")
@json_option
def _sample(*, what: str, as_json: bool) -> ExitCode:
    if what == "locked":
        raise LockedError("somebody is there", hint="wait")
    if what in LACKING:
        raise LACKING[what][0]
    if what == "fault":
        raise RuntimeError("a bug")
    if what == "interrupt":
        raise KeyboardInterrupt
    if what in ("SIGTERM", "SIGHUP"):
        try:
            os.kill(os.getpid(), signal.Signals[what])
            time.sleep(0 if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else 5)
        finally:
            for number in (
                (signal.SIGHUP, signal.SIGTERM) if what == "SIGTERM" else (signal.SIGHUP,)
            ):
                os.kill(os.getpid(), number)
            click.echo("undone")
    click.echo(f"{what} {as_json}")
    return ExitCode.SOME_DEFERRED if what == "deferred" else ExitCode.DONE


class SampleProgram(Program):
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _sample if cmd_name == "sample" else None


def sample(*arguments: str, unattended: bool = False):
    program = SampleProgram(
        "sample-program",
        "nowhere.",
        {"sample": "A sample."},
        purpose="For tests.",
        unattended=unattended,
    )
    return CliRunner().invoke(program, list(arguments))


def test_a_command_that_returns_nothing_special_is_done() -> None:
    result = sample("sample", "x")
    assert (result.exit_code, result.stdout) == (ExitCode.DONE, "x False\n")


def test_a_commands_exit_code_is_the_programs() -> None:
    assert sample("sample", "deferred").exit_code == ExitCode.SOME_DEFERRED


def test_an_error_is_said_on_stderr_with_its_hint_and_its_exit_code() -> None:
    result = sample("sample", "locked")
    assert (result.exit_code, result.stdout) == (ExitCode.LOCKED, "")
    assert result.stderr == "sample-program: error: somebody is there\nhint: wait\n"


def test_with_json_the_error_is_json_too() -> None:
    result = sample("sample", "locked", "--json")
    assert result.exit_code == ExitCode.LOCKED
    assert json.loads(result.stderr) == {
        "error": {"kind": "LockedError", "code": 11, "message": "somebody is there", "hint": "wait"}
    }


def test_a_program_without_a_command_shows_its_help_as_it_is() -> None:
    lines = sample().stderr.splitlines()
    assert lines[0].startswith("Usage: ")
    assert "Commands:" in lines


def test_usage_errors_have_exit_code_2_also_as_json() -> None:
    assert sample("sample").exit_code == ExitCode.USAGE
    assert "Usage: sample-program sample" in sample("sample").stderr
    result = sample("sample", "--json")
    assert (result.exit_code, json.loads(result.stderr)["error"]["code"]) == (ExitCode.USAGE, 2)
    assert sample("no-such-command").exit_code == ExitCode.USAGE


def test_a_fault_shows_its_traceback_only_when_asked() -> None:
    result = sample("sample", "fault")
    assert result.exit_code == ExitCode.FAILURE
    assert "unexpected RuntimeError: a bug" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in sample("-v", "-v", "sample", "fault").stderr


def test_a_fault_under_cron_shows_its_traceback_at_once() -> None:
    assert "Traceback" in sample("sample", "fault", unattended=True).stderr


@pytest.mark.parametrize("what", LACKING)
def test_a_host_that_has_run_out_of_something_is_no_fault_of_the_program(what: str) -> None:
    result = sample("sample", what, unattended=True)
    assert result.exit_code == ExitCode.FAILURE
    assert f"error: this host did not let the program go on: {LACKING[what][1]}\n" in result.stderr
    assert "ulimit" in result.stderr
    assert not any(word in result.stderr for word in ("Traceback", "unexpected", "fault"))
    assert "Traceback" in sample("-v", "-v", "sample", what).stderr


def test_an_interrupt_ends_with_130() -> None:
    assert sample("sample", "interrupt").exit_code == ExitCode.INTERRUPTED


@pytest.mark.usefixtures("hang_up_heeded")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_term_and_hang_up_end_with_143_undisturbed_by_a_second_one_and_the_handlers_are_put_back(
    name: str,
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    result = sample("sample", name)
    assert (result.exit_code, result.stdout) == (ExitCode.TERMINATED, "undone\n")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.usefixtures("hang_up_heeded")
def test_a_hang_up_that_was_ignored_at_the_start_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert sample("sample", "SIGHUP").stdout == "undone\nSIGHUP False\n"
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_every_exit_code_has_a_meaning() -> None:
    assert all(code.meaning for code in ExitCode)


def test_every_error_class_has_a_code_of_the_registry() -> None:
    classes = [VmBackupError]
    for kind in classes:
        classes += kind.__subclasses__()
        assert isinstance(kind.exit_code, ExitCode)
    assert len(classes) > 10


def test_every_exit_code_is_documented() -> None:
    page = Path(__file__).parents[3] / "docs" / "exit-codes.md"
    text = page.read_text(encoding="utf-8")
    for code in ExitCode:
        assert f"| {code.value} | {code.meaning}" in text


@pytest.mark.broad
@pytest.mark.parametrize("program", [admin.program, lock.program], ids=["admin", "lock"])
def test_every_command_can_be_loaded_and_its_help_teaches(program: Program) -> None:
    for name in program.list_commands(click.Context(program)):
        result = CliRunner().invoke(program, [name, "--help"])
        assert result.exit_code == 0, result.output
        command = program.get_command(click.Context(program), name)
        for inner in command.commands if isinstance(command, click.Group) else [None]:
            help_text = (
                CliRunner().invoke(program, [name, *([inner] if inner else []), "--help"]).stdout
            )
            assert "Examples:" in help_text
            assert "Exit codes:" in help_text
            assert name == "check" or "130  interrupted" in help_text
            assert program.name in help_text


#: Commands that change nothing on the NAS or a host, so that there is nothing to show beforehand.
READING = {
    "check",
    "status",
    "show",
    "copies",
    "log",
    "doctor",
    "config show",
    "config validate",
    "statedb check",
    "list",
    "compare",
    "space",
    "report",  # --html writes a file of this host
    "page",  # --output writes the file that was asked for
    "metrics",  # --output writes a file of this host, as `config generate` does
    "notify",  # only --test sends anything, and that is a test
}


def commands(program: Program) -> Iterator[tuple[str, set[str]]]:
    """Each command with its options."""
    for name in program.list_commands(click.Context(program)):
        command = program.get_command(click.Context(program), name)
        inner = command.commands if isinstance(command, click.Group) else {"": command}
        for word, made in inner.items():
            yield (
                f"{name} {word}".strip(),
                {option for parameter in made.params for option in parameter.opts},
            )


@pytest.mark.parametrize("program", [admin.program, lock.program], ids=["admin", "lock"])
def test_every_command_speaks_json_and_shows_beforehand_what_it_would_do(program: Program) -> None:
    for name, options in commands(program):
        if name in ("config generate", "config schema"):  # what it prints is the file
            continue
        assert "--json" in options, name
        assert ("--dry-run" in options) == (name not in READING), name


@pytest.mark.parametrize("program", [admin.program, lock.program], ids=["admin", "lock"])
def test_every_command_is_in_the_documentation(program: Program) -> None:
    page = Path(__file__).parents[3] / "docs" / "commands.md"
    headings = [
        line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("##")
    ]
    for name in program.list_commands(click.Context(program)):
        assert any(f"{program.name} {name}" in heading for heading in headings), name


@pytest.mark.broad
@pytest.mark.parametrize("module", ["coordinator.admin", "coordinator.lock", "worker.cli"])
def test_control_c_while_a_program_starts_shows_no_traceback(module: str) -> None:
    code = (
        "import sys\n"
        "class Pressed:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Pressed())\n"
        f"import {module}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (ExitCode.INTERRUPTED, "")


@pytest.mark.broad
def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys; from coordinator.admin import program\n"
        "try: program.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('pydantic', 'psutil', 'filelock', 'rich', 'shared.state') if "
        "name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.strip() == "[]"


def test_a_wrong_configuration_lists_all_its_errors(operator: Operator) -> None:
    operator.config.write_text(
        '[nas]\nmountpoint = "relative"\nnonsense = 1\n[backup]\nparallel = 0\n', encoding="utf-8"
    )
    result = operator.admin("status")
    assert result.exit_code == ExitCode.USAGE
    for key in ("nas.mountpoint", "nas.nonsense", "backup.parallel"):
        assert key in result.stderr


def test_version() -> None:
    result = CliRunner().invoke(admin.program, ["--version"])
    assert (result.exit_code, result.stdout.split()[-1][0].isdigit()) == (0, True)


def test_a_reader_that_goes_away_is_no_traceback(site_with_database: Operator) -> None:
    program = [
        sys.executable,
        "-m",
        "coordinator.admin",
        "--config",
        str(site_with_database.config),
        "config",
        "generate",
    ]
    done = subprocess.run(
        ["sh", "-c", '"$@" | true', "sh", *program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


class TestHintsToPaste:
    """Whoever gave `--config` needs it in the command that helps, too."""

    @pytest.fixture
    def config(self, operator: Operator) -> str:
        """A path that a shell would take apart."""
        path = operator.folder / "my config.toml"
        path.write_bytes(operator.config.read_bytes())
        return str(path)

    def run(self, config: str, *words: str) -> Result:
        return CliRunner().invoke(admin.program, ["--config", config, *words])

    def test_an_error(self, config: str) -> None:
        told = self.run(config, "status").stderr
        assert f"vmbackup-admin --config '{config}' init" in told
        document = json.loads(self.run(config, "status", "--json").stderr)
        assert f"--config '{config}' init" in document["error"]["hint"]

    def test_doctor_and_check(self, config: str, operator: Operator) -> None:
        assert f"vmbackup-admin --config '{config}' init" in self.run(config, "doctor").stdout
        assert f"vmbackup-admin --config '{config}' init" in self.run(config, "check").stdout
        operator.create()
        operator.add_vms("web")
        operator.set("web", damaged=("x",))
        told = self.run(config, "check").stdout
        assert f"vmbackup-admin --config '{config}' verify web" in told

    def test_what_a_command_says_is_next(self, config: str, operator: Operator) -> None:
        made = self.run(config, "init").stdout
        assert f"vmbackup-admin --config '{config}' doctor" in made
        assert f"vmbackup-worker --config '{config}' run" in made
        for words in (["status"], ["check"]):
            told = self.run(config, *words).stdout
            assert f"vmbackup-worker --config '{config}' vmfind" in told, told
        planned = CliRunner().invoke(worker_program, ["--config", config, "backup", "--dry-run"])
        assert f"vmbackup-admin --config '{config}' status" in planned.stderr
        operator.add_vms("web")
        operator.set("web", last_copy=copy())
        told = self.run(config, "forget", "web").stdout
        for word in ("copies", "restore", "remove"):
            assert f"vmbackup-admin --config '{config}' {word} {UUID}" in told

    def test_a_command_that_is_in_it_works(self, config: str) -> None:
        hint = json.loads(self.run(config, "status", "--json").stderr)["error"]["hint"]
        command = re.search(r"vmbackup-admin [^`;:]*?init", hint)
        assert command
        _program, *words = shlex.split(command[0])
        assert CliRunner().invoke(admin.program, [*words, "--dry-run"]).exit_code == 0

    @pytest.mark.parametrize(
        "text",
        [
            "on beta: vmbackup-admin doctor",  # whose configuration has another path
            "`vmbackup-admin -v -v …` shows the traceback",
            "/opt/vmbackup/bin/vmbackup-admin doctor",
            "vmbackup-admin",
        ],
    )
    def test_what_is_no_command_for_this_host_stays_as_it_is(self, text: str) -> None:
        assert with_configuration(text, "/x.toml") == text

    def test_without_the_option_nothing_is_added(self, operator: Operator) -> None:
        told = operator.admin("status").stderr
        assert "vmbackup-admin init" in told
        assert with_configuration("vmbackup-worker -v run", "/x") == (
            "vmbackup-worker --config /x -v run"
        )


@pytest.mark.parametrize(
    "command",
    [
        ("init", "--lease-seconds"),
        ("statedb", "rebuild", "--lease-seconds"),
        ("statedb", "migrate", "--lease-seconds"),
        ("mount", "web01", "/nowhere", "--idle"),
        ("rehearse", "web01", "--wait"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("number", ["nan", "inf", "-1"])
def test_what_is_no_number_between_the_bounds_is_refused_before_anything_is_made(
    operator: Operator, command: tuple[str, ...], number: str
) -> None:
    done = operator.admin(*command, number)
    assert done.exit_code == ExitCode.USAGE
    assert not operator.vmstate.exists()
