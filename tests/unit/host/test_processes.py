"""Commands that are run to their end: bounded, ended when we are, and shown when asked for."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from shared.export.command import PipedCommand
from shared.host.clock import SystemClock
from shared.host.errors import ExitCode
from shared.host.process_identity import ProcessIdentity, wait_until_gone
from shared.host.processes import ChildProcess, SubprocessRunner
from shared.host.signals import EndedError, ending_in_order, held_back
from shared.virtualbox.background import Background
from shared.virtualbox.vboxmanage import VBoxManage

PROJECT = Path(__file__).parents[3]


def noted(path: Path) -> int:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if path.exists() and (text := path.read_text()).endswith("\n"):
            return int(text)
        time.sleep(0.02)
    raise AssertionError("nothing was started")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_does_not_go_on_without_whoever_was_told_to_end(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The children are in a session of their own.

    A signal that ends us does not reach them by itself.
    """
    mark = tmp_path / "pid"
    found: list[ProcessIdentity] = []

    def interrupt() -> None:
        identity = ProcessIdentity.of(noted(mark))
        assert identity is not None
        found.append(identity)
        while not waits_for_it():  # the child may be faster than whoever starts it
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    def waits_for_it() -> bool:
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        return any(each.f_code.co_name == "communicate" for each, _ in traceback.walk_stack(frame))

    thread = threading.Thread(target=interrupt)
    thread.start()
    command = ["sh", "-c", 'echo $$ >"$0.new"; mv "$0.new" "$0"; exec sleep 60', str(mark)]
    with pytest.raises((EndedError, KeyboardInterrupt)) as caught, ending_in_order():
        SubprocessRunner().run(command, timeout_seconds=50)
    thread.join()
    assert wait_until_gone(found[0], timeout_seconds=10)
    if isinstance(caught.value, EndedError):
        assert caught.value.code == int(ExitCode.TERMINATED)


@pytest.mark.broad
def test_an_interrupted_command_may_end_by_itself_if_it_has_the_time(tmp_path: Path) -> None:
    """A VBoxManage that is ended while it holds a VM leaves that `aborted`."""
    mark = tmp_path / "mark"
    words = f"trap 'touch {mark}.term' TERM; kill -TERM $PPID; sleep 0.3; touch {mark}"
    with pytest.raises(EndedError), ending_in_order():
        SubprocessRunner(patience_seconds=50).run(["sh", "-c", words], timeout_seconds=50)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mark"]
    words = f"kill -TERM $PPID; sleep 60; touch {mark}.late"
    with pytest.raises(EndedError), ending_in_order():
        SubprocessRunner(patience_seconds=0.2).run(["sh", "-c", words], timeout_seconds=50)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mark"]


@pytest.mark.broad
@pytest.mark.skipif(sys.platform != "linux", reason="the system cannot do that")
@pytest.mark.parametrize("ends", [True, False])
def test_a_child_ends_with_its_parent_if_that_is_asked_for(tmp_path: Path, ends: bool) -> None:
    mark = tmp_path / "pid"
    text = (
        "import sys, time\n"
        "from shared.host.processes import ChildProcess\n"
        "command = ['sh', '-c', 'echo $$ >\"$0.new\"; mv \"$0.new\" \"$0\"; exec sleep 60']\n"
        f"ChildProcess([*command, sys.argv[1]], ends_with_parent={ends})\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", text, str(mark)], cwd=PROJECT) as parent:
        identity = ProcessIdentity.of(noted(mark))
        parent.kill()
    assert identity is not None
    assert wait_until_gone(identity, timeout_seconds=10 if ends else 0.5) is ends
    if not ends:
        os.kill(identity.pid, signal.SIGKILL)


def test_a_program_that_is_not_there_is_told_as_without_a_parent() -> None:
    with pytest.raises(FileNotFoundError):
        ChildProcess(["/no/such/program"], ends_with_parent=True)


def test_the_command_of_a_child_is_its_own(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    command = ["sh", "-c", 'echo $$ >"$0.new"; mv "$0.new" "$0"; exec sleep 60', str(mark)]
    child = ChildProcess(command, stdout=None, stderr=None, ends_with_parent=True)
    assert noted(mark) == child.pid, "so it can be noted before the program begins"
    identity = child.identity()
    assert identity is not None
    assert identity.command == tuple(command)
    assert child.end()


@pytest.mark.broad
def test_what_a_child_started_ends_with_it_also_if_it_does_not_obey(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    stubborn = 'trap "" TERM; echo $$ >"$0.new"; mv "$0.new" "$0"; while :; do sleep 0.1; done'
    command = ["sh", "-c", 'sh -c "$0" "$1" & exec sleep 60', stubborn, str(mark)]
    child = ChildProcess(command, stdout=None, stderr=None)
    identity = ProcessIdentity.of(noted(mark))
    assert identity is not None
    assert child.end(0.5)
    assert wait_until_gone(identity, timeout_seconds=10)


@pytest.fixture
def vboxmanage(tmp_path: Path) -> VBoxManage:
    """A VBoxManage that answers, or fails when it is told so."""
    program = tmp_path / "VBoxManage"
    program.write_text(
        '#!/bin/sh\n[ "$1" != fail ] || { echo "VBoxManage: error: no" >&2; exit 1; }\necho '
        "7.2.22\n"
    )
    program.chmod(0o755)
    return VBoxManage(str(program), SubprocessRunner(), 30, clock=SystemClock())


@pytest.fixture
def shown(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What `-v -v` shows."""
    with caplog.at_level(logging.DEBUG):
        yield caplog


def test_every_command_is_shown_with_its_status_and_how_long_it_took(
    vboxmanage: VBoxManage, shown: pytest.LogCaptureFixture
) -> None:
    vboxmanage.version()
    vboxmanage.run("list", "a name\x1b[2J")
    running = Background(vboxmanage, "fail", "export")
    while not running.poll():
        time.sleep(0.01)
    running.poll()
    with PipedCommand(vboxmanage, ["convertfromraw"]) as child:
        child.wait(10)
    messages = [
        record.getMessage() for record in shown.records if "VBoxManage" in record.getMessage()
    ]
    program = vboxmanage.program
    assert [message.rpartition(" after ")[0] for message in messages] == [
        f"{program} --version: status 0",
        f"{program} list 'a name\\x1b[2J': status 0",
        f"{program} fail export: status 1",
        f"{program} convertfromraw: status 0",
    ]
    assert all(
        float(message.rpartition(" after ")[2].removesuffix(" s")) < 60 for message in messages
    )


def test_a_command_that_took_too_long_is_shown_with_the_signal_that_ended_it(
    shown: pytest.LogCaptureFixture,
) -> None:
    assert SubprocessRunner().run(["sleep", "60"], timeout_seconds=0.05).timed_out
    assert "sleep 60: ended by signal 15 after 0." in shown.text


def test_a_command_that_ends_by_itself_after_its_time_did_what_it_was_asked() -> None:
    done = SubprocessRunner(patience_seconds=50).run(["sleep", "0.2"], timeout_seconds=0)
    assert (done.status, done.timed_out) == (0, False)


@pytest.mark.slow
def test_the_options_of_a_program_show_them(tmp_path: Path) -> None:
    environment = {**os.environ, "NAS_MOUNTPOINT": str(tmp_path)}
    program = [Path(sys.executable).parent / "vmbackup-admin"]
    for options, expected in ((["-v"], False), (["-v", "-v"], True)):
        command = [*program, *options, "status"]
        done = subprocess.run(
            command,
            env=environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ("probe.py" in done.stderr) is expected


class Interrupted(subprocess.Popen[bytes]):
    """A process whose start a signal interrupts, when it runs and nobody knows its number yet."""

    pids: ClassVar[list[int]] = []
    number: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.pids.append(self.pid)
        signal.raise_signal(self.number)


@pytest.mark.usefixtures("hang_up_heeded")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("way", ["runner", "child"])
def test_a_signal_while_a_process_is_started_leaves_none_behind(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, way: str
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    Interrupted.pids, Interrupted.number = [], number
    told: list[str] = []
    try:
        with ending_in_order():
            if way == "runner":
                SubprocessRunner().run(["sleep", "60"], timeout_seconds=30)
            else:
                ChildProcess(["sleep", "60"])
    except (EndedError, KeyboardInterrupt) as ended:
        told.append(type(ended).__name__)
    assert told == ["KeyboardInterrupt" if number == signal.SIGINT else "EndedError"]
    (pid,) = Interrupted.pids
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_is_started_while_signals_are_held_back_heeds_them(tmp_path: Path) -> None:
    with ending_in_order(), held_back():
        child = ChildProcess(["sleep", "60"])
    assert child.end(signals=[signal.SIGTERM])
    assert child.poll() == -signal.SIGTERM
    child.printed(1)


def test_without_a_signal_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with held_back():
        pass
    assert signal.getsignal(signal.SIGTERM) is before
