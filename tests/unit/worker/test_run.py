"""`vmbackup-worker run`: what it starts, what it answers, and what a signal does to it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.command_line import Invocation
from shared.host.configuration import model
from shared.host.errors import ConfigurationError, ExitCode
from shared.host.processes import ChildProcess
from worker import run
from worker.cli import program
from worker.tick import Start, Tick, worst

#: A worker that notes that it was started, waits while its name says so, and notes how it ended.
WORKER = """
import os, pathlib, signal, sys, time
folder, codes, name = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def end(number, frame):
    with open(folder / "log", "a") as log: print(name, "got", number, file=log)
    sys.exit(128 + number)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, end)
with open(folder / "log", "a") as log: print(name, file=log)
code = dict(pair.split("=") for pair in codes.split(",") if pair).get(name, "0")
if code == "wait": time.sleep(30)
if code == "killed": os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(code))
"""


def starting(*program: str) -> Start:
    """Workers are a program with their name as its last argument."""

    def start(name: str, _others: object) -> ChildProcess:
        return ChildProcess([*program, name], stdout=None, stderr=subprocess.PIPE)

    return start


def tick(folder: Path, codes: str = "", **more: bool) -> Tick:
    start = starting(sys.executable, "-I", "-S", "-c", WORKER, str(folder), codes)
    return Tick(start, lambda *_: None, **more)


def log(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


@pytest.mark.broad
def test_all_workers_run_and_those_that_build_on_each_other_in_order(tmp_path: Path) -> None:
    assert tick(tmp_path).run() == ExitCode.DONE
    assert sorted(log(tmp_path)) == ["backup", "database", "notifier", "verify", "vmfind"]
    assert [line for line in log(tmp_path) if line != "database"] == [
        "vmfind",
        "notifier",
        "backup",
        "verify",
    ]


@pytest.mark.broad
def test_one_that_fails_does_not_keep_the_others_from_running(tmp_path: Path) -> None:
    assert tick(tmp_path, "vmfind=14,backup=4").run() == ExitCode.VBOXMANAGE
    assert len(log(tmp_path)) == 5


@pytest.mark.broad
def test_what_a_worker_says_is_heard_with_its_name_even_without_an_end_of_line(
    tmp_path: Path,
) -> None:
    said: list[tuple[str, str]] = []
    script = "import sys; sys.stderr.write('one\\n\\udcff two'.encode('utf-8', 'replace').decode())"
    start = starting(sys.executable, "-I", "-S", "-c", script)
    Tick(start, lambda *heard: said.append(heard)).run()
    assert sorted(set(said)) == sorted(
        (name, line)
        for name in ("vmfind", "notifier", "backup", "verify", "database")
        for line in ("one", "? two")
    )


def test_one_that_nobody_hears_any_more_does_not_stop_the_others(tmp_path: Path) -> None:
    def hear(*_: str) -> None:
        raise BrokenPipeError

    start = starting("sh", "-c", f"echo >&2; echo $0 >> {tmp_path}/log")
    assert Tick(start, hear).run() == ExitCode.DONE
    assert len(log(tmp_path)) == 5


@pytest.mark.broad
def test_something_that_outlives_a_worker_and_has_its_stderr_holds_up_nobody(
    tmp_path: Path,
) -> None:
    script = "import subprocess; print(subprocess.Popen(['sleep', '20']).pid)"
    pids = tmp_path / "pids"
    began = time.monotonic()
    start = starting("sh", "-c", f"{shlex.join([sys.executable, '-c', script])} >> {pids}")
    assert Tick(start, lambda *_: None, last_words_seconds=0.05).run() == ExitCode.DONE
    for pid in pids.read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    assert time.monotonic() - began < 15


@pytest.mark.broad
def test_a_worker_that_was_killed_is_a_failure_and_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert tick(tmp_path, "notifier=killed").run() == ExitCode.FAILURE
    assert "notifier was killed by signal 9" in caplog.text


@pytest.mark.broad
@pytest.mark.usefixtures("hang_up_heeded")
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, ExitCode.TERMINATED),
        (signal.SIGHUP, ExitCode.TERMINATED),
        (signal.SIGINT, ExitCode.INTERRUPTED),
    ],
)
def test_a_signal_reaches_every_worker_once_and_no_further_one_is_started(
    tmp_path: Path, number: signal.Signals, code: ExitCode
) -> None:
    def interrupt() -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end and not {"notifier", "database"} <= set(
            log(tmp_path) if (tmp_path / "log").exists() else []
        ):
            time.sleep(0.02)
        for _ in range(3):
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert tick(tmp_path, "notifier=wait,database=wait").run() == code
    thread.join()
    assert sorted(log(tmp_path)) == [
        "database",
        f"database got {int(number)}",
        "notifier",
        f"notifier got {int(number)}",
        "vmfind",
    ]


@pytest.mark.parametrize("code", [ExitCode.USAGE, ExitCode.NO_DATABASE, ExitCode.NAS])
def test_without_configuration_database_or_nas_that_is_said_once(
    tmp_path: Path, code: ExitCode
) -> None:
    assert tick(tmp_path, f"vmfind={int(code)}").run() == code
    assert log(tmp_path) == ["vmfind"]


@pytest.mark.broad
def test_people_are_told_last_and_also_when_the_others_have_nothing_to_work_with(
    tmp_path: Path,
) -> None:
    for codes, expected in (("", 6), (f"vmfind={int(ExitCode.NAS)}", 2)):
        (tmp_path / "log").unlink(missing_ok=True)
        ended = tick(tmp_path, codes, tells=True).run()
        assert (log(tmp_path)[-1], len(log(tmp_path))) == ("tell", expected)
        assert ended == (ExitCode.NAS if codes else ExitCode.DONE)


def test_with_a_wrong_configuration_nobody_can_be_told(tmp_path: Path) -> None:
    assert tick(tmp_path, "vmfind=2", tells=True).run() == ExitCode.USAGE
    assert log(tmp_path) == ["vmfind"]


def test_the_most_telling_code_is_reported() -> None:
    assert (
        worst([ExitCode.SOME_DEFERRED, ExitCode.SOME_FAILED, ExitCode.DONE]) == ExitCode.SOME_FAILED
    )
    assert worst([ExitCode.SOME_FAILED, ExitCode.NAS]) == ExitCode.NAS
    assert worst([]) == ExitCode.DONE


def test_that_the_configuration_was_wrong_is_over_when_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    default, own = tmp_path / "default", tmp_path / "own"
    monkeypatch.setattr(sys, "path", ["", *sys.path] * 3)  # each run takes the first one away
    monkeypatch.setattr(model, "default_state_directory", lambda: default)
    monkeypatch.setattr(run, "Tick", lambda _start, hear, **_: Wrong(hear))
    config = tmp_path / "config.toml"
    monkeypatch.setattr(sys, "argv", ["vmbackup-worker", str(config)])
    told = []
    for mountpoint in ("not absolute", "not absolute", str(tmp_path)):
        config.write_text(
            f"[nas]\nmountpoint = '{mountpoint}'\n[host]\nstate_directory = '{own}'\n"
        )
        with pytest.raises(SystemExit):
            program.main(["--config", str(config), "run"])
        told.append(capfd.readouterr().err)
    first, second, third = told
    assert ("must be an absolute path" in first, second) == (True, "")
    assert "is over" in third
    assert (default / "run.log").exists()


def test_a_configuration_that_is_wrong_stays_so_when_another_one_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two NAS have a configuration each, and one user's cron runs both."""
    monkeypatch.setattr(sys, "path", ["", *sys.path] * 4)  # each run takes the first one away
    monkeypatch.setattr(model, "default_state_directory", lambda: tmp_path / "default")
    monkeypatch.setattr(run, "Tick", lambda _start, hear, **_: Wrong(hear))
    said = []
    for _ in range(2):
        for name, mountpoint in (("wrong", "not absolute"), ("right", str(tmp_path))):
            config = tmp_path / f"{name}.toml"
            config.write_text(
                f"[nas]\nmountpoint = '{mountpoint}'\n[host]\nstate_directory = '{tmp_path}/own'\n"
            )
            monkeypatch.setattr(sys, "argv", ["vmbackup-worker", str(config)])
            with pytest.raises(SystemExit):
                program.main(["--config", str(config), "run"])
            said.append(capfd.readouterr().err)
    assert "must be an absolute path" in said[0]
    assert said[1:] == ["", "", ""]


class Wrong(Tick):
    """A tick of which only vmfind is run, in this process."""

    def __init__(self, hear: Callable[[str, str], None]) -> None:
        super().__init__(starting(), hear)
        self.hear = hear

    def run(self) -> ExitCode:
        """See `Tick.run`."""
        try:
            Invocation("vmbackup-worker", config=sys.argv[-1]).configuration()
        except ConfigurationError as error:
            details = {"message": error.message, "hint": error.hint}
            self.hear("vmfind", json.dumps({"error": details}))
            return ExitCode.USAGE
        self.well.add("vmfind")
        return ExitCode.DONE
