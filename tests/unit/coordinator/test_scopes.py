"""What a server is started in, in a unit of systemd, and what is said where it ends too early."""

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

import pytest

from shared.serving import starting

SERVER = ("sh", "-c", 'cat >/dev/null; echo "{\\"ready\\": true, \\"pid\\": 1}"')
IN_A_UNIT = {"INVOCATION_ID": "0" * 32}
RUNTIME = {"XDG_RUNTIME_DIR": "/run/user/1000"}
NO_SCOPE, ENDS = "unless the unit has KillMode=process", "ends when this user has logged out"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has a line for each call of `systemd-run`, which does what is behind `--`."""
    program = tmp_path / "bin" / "systemd-run"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n'
        'while [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (tmp_path / "asked").touch()
    return tmp_path / "asked"


@pytest.mark.broad
@pytest.mark.parametrize(
    ("user", "environment", "scope", "said"),
    [
        (0, {}, "", ""),
        (0, IN_A_UNIT, "--scope", ""),
        (1000, RUNTIME, "", ""),
        (1000, IN_A_UNIT, "", NO_SCOPE),
        (1000, IN_A_UNIT | RUNTIME, "--user --scope", ENDS),
    ],
)
def test_who_does_not_linger_keeps_the_server_in_the_unit(
    asked: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    user: int,
    environment: Mapping[str, str],
    scope: str,
    said: str,
) -> None:
    """Where systemd was not told that they run all the time it may be ended at any moment."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(starting, "lingers", lambda: False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert starting.start({}, command=SERVER, environment=environment).pid == 1
    assert asked.read_text().partition(" --quiet")[0] == scope
    assert len(caplog.messages) == bool(said)
    assert said in "".join(caplog.messages)


def test_who_lingers_has_a_file(tmp_path: Path) -> None:
    assert not starting.lingers(tmp_path)
    (tmp_path / pwd.getpwuid(os.geteuid()).pw_name).touch()
    assert starting.lingers(tmp_path)
