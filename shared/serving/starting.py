"""Starting the server of a mount, so that it goes on when whatever started it ends."""

import json
import logging
import os
import pwd
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.host.errors import CopyError, LockedError, NasError, VmBackupError
from shared.host.processes import ChildProcess
from shared.host.waits import waiting
from shared.serving.server_ending import MODULE

log: Final = logging.getLogger(__name__)

#: A module of ours as a program.
PYTHON: Final = (sys.executable, "-P", "-m")
_RUNTIME: Final = "XDG_RUNTIME_DIR"
_WITH_THE_UNIT: Final = (
    "this runs in a unit of systemd, which gives the server of the files no scope of its own: "
    "unless the unit has KillMode=process, its end is that of the server"
)
_WITH_THE_USER: Final = (
    "the server of the files ends when this user has logged out of this host, unless "
    "`loginctl enable-linger` was given"
)
#: Of each user for whom systemd runs whether they are logged in or not, a file with their name.
_LINGERING: Final = Path("/var/lib/systemd/linger")
_END_SECONDS: Final = 5.0
_LONGEST_ANSWER: Final = 1 << 16


class MountError(VmBackupError):
    """The server did not start."""


@dataclass(frozen=True, slots=True)
class Started:
    """A server whose files are there. `problems` say which disks are not among them, and why.

    `missing` is what this server never shows, and another would.
    """

    pid: int
    problems: tuple[str, ...]
    missing: tuple[str, ...] = ()


def start(
    job: Mapping[str, Any],
    *,
    seconds: float = 120.0,
    command: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> Started:
    """Starts the server and answers when the files are there.

    `command` is the server, if not that of a copy's files. It is in a session of its own and has no
    terminal. In a unit of systemd, which ends all that it started, it gets a scope of its own; a
    warning tells where it gets none, or one that ends. Raises `MountError`,
    `CopyError`, `NasError`, and `LockedError` while copies of the VM are being moved or removed.
    """
    command = command or server_command(str(job["place"]))
    ways, in_a_unit = [list(command)], bool(environment.get("INVOCATION_ID"))
    lasts = os.geteuid() == 0 or lingers()
    if in_a_unit and shutil.which("systemd-run") and (lasts or environment.get(_RUNTIME)):
        ways.insert(0, in_a_scope(command))
    answer: Mapping[str, Any] = {}
    for way in ways:
        answer = _try(way, job, seconds)
        if answer.get("ready"):
            if in_a_unit and (way == ways[-1] or not lasts):
                log.warning(_WITH_THE_UNIT if way == ways[-1] else _WITH_THE_USER)
            problems, missing = (
                tuple(map(str, answer.get(name, ()))) for name in ("problems", "missing")
            )
            return Started(int(answer["pid"]), problems, missing)
        if "error" in answer:
            break
    message = str(answer.get("error") or "the server of the mount did not start")
    kinds = {int(kind.exit_code): kind for kind in (CopyError, NasError, LockedError)}
    kind = kinds.get(answer.get("code", 0), MountError)
    raise kind(message, hint=str(answer.get("hint", "")))


def server_command(place: str) -> tuple[str, ...]:
    """The server that shows a copy at a place, by which it is found again."""
    return (*PYTHON, MODULE, place)


def in_a_scope(command: Sequence[str]) -> list[str]:
    """The command as what systemd does not end with the unit that it is started in.

    For another user than root the systemd of that user does it, which a unit of the host itself is
    not told how to reach.
    """
    scope = ["systemd-run", "--scope", "--quiet", "--collect", "--", *command]
    if (user := os.geteuid()) == 0:
        return scope
    scope.insert(1, "--user")
    return scope if os.environ.get(_RUNTIME) else ["env", f"{_RUNTIME}=/run/user/{user}", *scope]


def lingers(where: Path = _LINGERING) -> bool:
    """Whether the systemd of this user goes on when they log out."""
    try:
        return (where / pwd.getpwuid(os.geteuid()).pw_name).exists()
    except (KeyError, OSError):
        return False


def _try(command: Sequence[str], job: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
    """What the server says. It goes on as a process of its own, or is ended here."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source, os.fdopen(write, "wb") as sink:
        child = ChildProcess(command, stdin=source, stderr=subprocess.DEVNULL)
        try:
            sink.write(json.dumps(job).encode())
            sink.close()
            with waiting("the mount", seconds):
                answer = _answer(child, seconds)
        except BaseException:
            child.end()
            raise
    if not answer.get("ready"):
        child.end()
    if child.stdout is not None:
        child.stdout.close()
    child.wait_at_most(_END_SECONDS)
    return answer


def _answer(child: ChildProcess, seconds: float) -> Mapping[str, Any]:
    """What the server says first; nothing, if it ends or says nothing in time."""
    if child.stdout is None:
        raise ValueError("the server's output is not read")
    end, said = time.monotonic() + seconds, b""
    while not said.endswith(b"\n") and len(said) < _LONGEST_ANSWER:
        ready, _, _ = select.select([child.stdout], [], [], max(0.0, end - time.monotonic()))
        more = os.read(child.stdout.fileno(), _LONGEST_ANSWER) if ready else b""
        if not more:
            return {}
        said += more
    answer = json.loads(said)
    return answer if isinstance(answer, dict) else {}
