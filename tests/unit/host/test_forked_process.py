"""Forks: processes of their own in all but what they have in memory."""

import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from shared.host.forked_process import can_fork

#: A program that forks; it is one of its own because pytest may have threads.
BEFORE = """
import os, random, secrets, signal, sys, threading, time
from shared.host.forked_process import ForkedProcess
def ended(fork):
    end = time.monotonic() + 20
    while fork.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return fork.poll()
def said(work, name="fork", others=()):
    fork = ForkedProcess(work, name, others)
    code = ended(fork)
    return code, fork.stderr.read().decode()
def say(text):
    sys.stderr.write(str(text))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there are programs forked")


def forking(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.broad
@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ("None", 0),
        ("sys.exit(14)", 14),
        ("1 / 0", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
    ],
)
def test_it_ends_with_a_code_of_its_own_and_the_program_goes_on(ends: str, code: int) -> None:
    assert forking(f"print(said(lambda: {ends})[0], ended(ForkedProcess(int, 'x')))") == (
        f"{code} 0\n"
    )


@pytest.mark.broad
def test_it_has_a_number_a_session_a_name_and_random_numbers_of_its_own() -> None:
    shown = forking("""
    random.seed(1)
    def work():
        name = open("/proc/self/comm").read().strip()
        say((os.getpid(), os.getsid(0), name, random.random(), secrets.token_hex(4)))
    print(said(work, "backup")[1]); print(said(work, "verify")[1])
    """)
    first, second = (eval(line) for line in shown.splitlines())
    assert (first[0], second[0]) == (first[1], second[1])
    assert (first[2], second[2]) == ("backup", "verify")
    assert not set(first) & set(second)


@pytest.mark.broad
def test_its_input_is_closed_and_it_has_no_pipe_of_another_fork() -> None:
    shown = forking("""
    hung = ForkedProcess(lambda: time.sleep(60), "hung")
    def work():
        opened = {os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                  if os.path.lexists(f"/proc/self/fd/{n}")}
        say((sys.stdin.read(), os.readlink("/proc/self/fd/0"), pipe in opened))
    pipe = os.readlink(f"/proc/self/fd/{hung.stderr.fileno()}")
    print(said(work, others=[hung.stderr])[1])
    hung.send(signal.SIGKILL); ended(hung)
    """)
    assert eval(shown) == ("", "/dev/null", False)


@pytest.mark.broad
def test_one_that_hangs_or_is_killed_holds_up_no_other() -> None:
    shown = forking("""
    hung = ForkedProcess(lambda: time.sleep(60), "hung")
    print(said(lambda: say("works"))[1], hung.poll())
    hung.send(signal.SIGTERM); print(ended(hung)); hung.send(signal.SIGTERM)
    """)
    assert shown == f"works None\n{-signal.SIGTERM}\n"


@pytest.mark.broad
def test_a_signal_does_to_it_what_it_does_to_a_program_not_what_its_parent_makes_of_it() -> None:
    shown = forking("""
    signal.signal(signal.SIGTERM, lambda *_: print("parent"))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    fork = ForkedProcess(lambda: (time.sleep(0.3), sys.exit(5)), "x")
    fork.send(signal.SIGHUP); print(ended(fork), flush=True)
    fork = ForkedProcess(lambda: time.sleep(60), "x")
    fork.send(signal.SIGTERM); print(ended(fork))
    """)
    assert shown == f"5\n{-signal.SIGTERM}\n"


@pytest.mark.broad
def test_its_errors_are_heard_also_where_those_of_the_program_go_into_a_file(
    tmp_path: Path,
) -> None:
    shown = forking(f"""
    sys.stderr.flush(); os.dup2(os.open({str(tmp_path / "file")!r}, os.O_CREAT | os.O_RDWR), 2)
    sys.stderr = open(2, "w", closefd=False); say("before")
    from shared.host import streams
    print(said(lambda: (streams.make_usable(), say("within"))))
    """)
    assert shown == "(0, 'within')\n"
    assert (tmp_path / "file").read_text() == "before"


def test_a_signal_to_one_that_has_just_ended_does_nothing() -> None:
    """A handler may come between its end and the note of it."""
    assert (
        forking("""
    fork = ForkedProcess(int, "x"); os.waitpid(-1, 0)
    fork.send(signal.SIGTERM); print("well")
    """)
        == "well\n"
    )


@pytest.mark.broad
def test_what_its_threads_do_is_done_before_it_ends() -> None:
    work = "threading.Thread(target=lambda: (time.sleep(0.2), say('done'))).start()"
    assert forking(f"print(said(lambda: {work}))") == "(0, 'done')\n"


def test_only_a_program_of_one_thread_is_forked_and_only_on_linux(tmp_path: Path) -> None:
    (tmp_path / "1").touch()
    assert can_fork("linux", tmp_path)
    assert not can_fork("darwin", tmp_path)
    (tmp_path / "2").touch()
    assert not can_fork("linux", tmp_path)
    assert not can_fork("linux", tmp_path / "nowhere")
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert not can_fork()
    stop.set()
    thread.join()
