"""Which process `vmbackup-lock break` and `recover` end of those that a heartbeat names.

What is compared is in `tests/unit/state/test_orphans.py`, part by part. Here: that nothing gets a
signal past that, whichever command frees the session.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from shared.host.host_identity import HostIdentity
from shared.host.process_identity import ProcessIdentity
from shared.state.host_records import SessionRecord
from tests.unit.coordinator.conftest import WHEN, Operator, gone_process

EXPORT = ("VBoxManage", "export", "a5bb7405-6bce-41d1-b207-357465b29724", "-o", "web01.ova")
#: Says on its standard output that it was ended, and ends.
WAIT = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('ended', flush=True)))
print('ready', flush=True)
while True: signal.pause()
"""
Child = dict[str, Any]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="signals by pidfd, births by the kernel"),
]


@pytest.fixture
def process() -> "Iterator[subprocess.Popen[bytes]]":
    with subprocess.Popen([sys.executable, "-c", WAIT, *EXPORT], stdout=subprocess.PIPE) as made:
        assert made.stdout
        assert made.stdout.readline() == b"ready\n"
        yield made
        made.kill()


def of(process: "subprocess.Popen[bytes]") -> Child:
    found = ProcessIdentity.of(process.pid)
    assert found is not None
    return {**asdict(found), "command": ["/usr/bin/VBoxManage", *EXPORT[1:]]}


def earlier(child: Child) -> Child:
    """The same number, of a process that was born before: this one got it later."""
    ticks, _, space = child["born"].partition("@")
    return {**child, "born": f"{int(ticks) - 1}@{space}"}


#: What a heartbeat says that may not end the process, and where its session was.
OTHERS: dict[str, tuple[Callable[[Child], Any], dict[str, str]]] = {
    "a later process of its number": (earlier, {}),
    "the same, as an older program noted it": (
        lambda child: {**child, "born": "", "started": child["started"] - 60},
        {},
    ),
    "another command": (lambda child: {**child, "command": ["VBoxManage", "export", "x"]}, {}),
    "of another boot": (dict, {"boot": "0f0e0d0c-0000-4000-8000-000000000000"}),
    "of a container": (dict, {"space": "pid:[1]"}),
    "all processes": (lambda child: {**child, "pid": -1}, {}),
    "init": (lambda child: {**child, "pid": 1}, {}),
    "this command": (lambda child: {**child, "pid": os.getpid()}, {}),
    "no number": (lambda child: {**child, "pid": "7; kill"}, {}),
}


def dead_session(operator: Operator, name: str, child: object, **elsewhere: str) -> str:
    """A session of this machine whose process is gone, and what its heartbeat says of a child."""
    here, gone = HostIdentity.of_this_machine("alpha"), gone_process()
    number = len(operator.contents.sessions)
    identifier = f"alpha.{gone.pid}.{number:08x}"
    row = SessionRecord(
        identifier,
        0,
        0,
        "live",
        node="alpha",
        hostname=here.hostname,
        machine=here.machine,
        boot=here.boot,
        space=here.space,
        pid=gone.pid,
        started=gone.started,
        worker="backup",
        since=WHEN,
    )
    operator.commit(lambda contents: contents.with_session(replace(row, **elsewhere)), name)
    beat = operator.vmstate / "node" / identifier
    beat.write_text(json.dumps({"beat": "1", "child": child}), encoding="utf-8")
    return identifier


def frees(operator: Operator, command: str, session: str) -> None:
    words = {"break": (session, "--force"), "recover": ()}[command]
    result = operator.lock(command, *words)
    assert result.exit_code == 0, result.output
    row = operator.contents.sessions.get(session)
    assert row is None or row.state != "live", "else nothing was tried"
    assert not Path(operator.vmstate / "node" / session).exists()


@pytest.mark.parametrize("command", ["break", "recover"])
def test_only_the_very_export_that_it_started_is_ended(
    site_with_database: Operator,
    process: "subprocess.Popen[bytes]",
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator, child = site_with_database, of(process)
    monkeypatch.setattr("shared.state.sessions.deaths.BEATS_WATCHED", 0.1)
    ended: list[int] = []
    send = signal.pidfd_send_signal
    monkeypatch.setattr(
        signal, "pidfd_send_signal", lambda *words: (ended.append(words[1]), send(*words))
    )
    for name, (changed, elsewhere) in OTHERS.items():
        session = dead_session(operator, name, changed(child), **elsewhere)
        frees(operator, command, session)
        assert not ended, name
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    frees(operator, command, dead_session(operator, "of another user", child))
    assert not ended
    monkeypatch.setattr(os, "getuid", lambda: user)
    frees(operator, command, dead_session(operator, "its own", child))
    assert ended == [signal.SIGTERM]
    assert process.stdout
    assert process.stdout.readline() == b"ended\n", "the first signal that it got"
