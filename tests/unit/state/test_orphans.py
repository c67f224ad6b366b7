"""Which process that a heartbeat names is ended, and which is left alone."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.host.host_identity import HostIdentity
from shared.host.process_identity import ProcessIdentity
from shared.state.host_records import SessionRecord
from shared.state.sessions.heartbeat import Doing
from shared.state.sessions.orphans import end_orphan
from tests.unit.state.builders import HERE, session

ID = "alpha.4711.0f0e0d0c"
EXPORT = (
    "VBoxManage",
    "export",
    "a5bb7405-6bce-41d1-b207-357465b29724",
    "-o",
    "/mnt/nas/web01/.x.partial.ova",
)
WAIT = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process with these words at the end of its command line."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*words: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen([*WAIT, *words], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def identity(process: "subprocess.Popen[bytes]", *command: str) -> ProcessIdentity:
    found = ProcessIdentity.of(process.pid)
    assert found is not None
    return replace(found, command=command)


def row(host: HostIdentity = HERE) -> SessionRecord:
    return session(
        ID,
        node=host.node,
        hostname=host.hostname,
        machine=host.machine,
        boot=host.boot,
        space=host.space,
    )


def beat(directory: Path, child: object) -> None:
    (directory / ID).write_text(json.dumps({"beat": "1", "child": child}))


def end(directory: Path, child: ProcessIdentity, host: HostIdentity = HERE) -> None:
    beat(directory, Doing("backup", child=child).to_json()["child"])
    end_orphan(directory, HERE, row(host))


def lives(process: "subprocess.Popen[bytes]") -> bool:
    time.sleep(0.05)
    return process.poll() is None


def test_the_export_that_it_left_running_is_cancelled(tmp_path: Path, start: Start) -> None:
    process = start(*EXPORT)
    end(tmp_path, identity(process, "/usr/bin/VBoxManage", *EXPORT[1:]))
    assert process.wait(10) == -15


def test_the_export_of_an_older_program_too(tmp_path: Path, start: Start) -> None:
    process = start(*EXPORT)
    end(tmp_path, ProcessIdentity(process.pid, psutil.Process(process.pid).create_time()))
    assert process.wait(10) == -15


@pytest.mark.parametrize(
    ("words", "command", "reason"),
    [
        (("sleep", "60"), (), "it is no VBoxManage export"),
        (("sleep", "60"), ("VBoxManage", "60"), "it is no VBoxManage export"),
        (
            ("VBoxManage", "startvm", "web01"),
            ("VBoxManage", "startvm", "web01"),
            "it is no VBoxManage export",
        ),
        (EXPORT, ("VBoxManage", "export", "another"), "it was started as another command"),
    ],
)
def test_another_process_is_left_alone(
    tmp_path: Path,
    start: Start,
    caplog: pytest.LogCaptureFixture,
    words: tuple[str, ...],
    command: tuple[str, ...],
    reason: str,
) -> None:
    process = start(*words)
    end(tmp_path, identity(process, *command))
    assert lives(process)
    assert reason in caplog.text


def test_a_later_process_of_its_number_is_left_alone(tmp_path: Path, start: Start) -> None:
    process = start(*EXPORT)
    mine = identity(process, *EXPORT)
    ticks, _, space = mine.born.partition("@")
    end(tmp_path, replace(mine, born=f"{int(ticks) - 1}@{space}"))
    end(tmp_path, replace(mine, born="", started=mine.started - 60))
    assert lives(process)


@pytest.mark.parametrize(
    "difference",
    [{"boot": "before"}, {"node": "other"}, {"machine": "other"}, {"space": "container"}],
)
def test_what_another_machine_or_boot_started_is_left_alone(
    tmp_path: Path, start: Start, difference: dict[str, str]
) -> None:
    process = start(*EXPORT)
    end(tmp_path, identity(process, *EXPORT), replace(HERE, **difference))
    assert lives(process)


def test_a_process_of_another_user_is_left_alone(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process = start(*EXPORT)
    mine = identity(process, *EXPORT)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    end(tmp_path, mine)
    assert lives(process)
    assert "it belongs to another user" in caplog.text


@pytest.mark.parametrize(
    "child",
    [
        *(
            None,
            [],
            7,
            {},
            {"pid": 0, "started": 0},
            {"pid": -1, "started": 0},
            {"pid": 1e400, "started": 0},
            {"pid": 2**70, "started": 0},
        ),
        *(
            {"pid": 1, "started": "x"},
            {"pid": 1, "started": 1.0, "command": 7},
            {"pid": 1, "started": 1.0, "born": []},
        ),
    ],
)
def test_what_no_program_writes_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: Any
) -> None:
    def kill(pid: int, number: int) -> None:
        assert number == 0, f"process {pid} gets a signal"

    monkeypatch.setattr(os, "kill", kill)
    beat(tmp_path, child)
    end_orphan(tmp_path, HERE, row())
