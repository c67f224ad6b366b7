"""A server as a program of its own, from its job to the end of its mount, and what it says."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shared.host.errors import VmBackupError


def run(work: Callable[[Mapping[str, Any]], None]) -> None:
    """Does `work` with the JSON object of standard input, in a process that nobody waits for.

    Says on standard output what goes wrong.
    """
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    job = json.load(sys.stdin.buffer)
    if os.fork():
        os._exit(0)  # whoever started this need not wait for the rest of it
    os.chdir("/")  # whatever directory this was started in may be removed or unmounted
    try:
        work(job)
    except Exception as error:  # noqa: BLE001 - the command says it; nobody reads a traceback here
        _say_why(error)


def serve(operations: object, place: str, *, what: str, kind: str, **more: bool) -> None:
    """Serves until it is unmounted. Raises RuntimeError if it cannot be mounted.

    The kernel's list of mounts says `what` is mounted there, by a server of which `kind`.
    """
    import mfusepy

    ignore_terminal()
    mfusepy.FUSE(
        operations,
        place,
        foreground=True,
        ro=True,
        fsname=what.replace(",", "_"),
        subtype=kind,
        default_permissions=True,
        **more,
    )


def ignore_terminal() -> None:
    """Signals of a terminal are not for us."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def root_may_look(settings: Path = Path("/etc/fuse.conf")) -> bool:
    """Whether root, who mounts what is in the files, may be let in by an ordinary user."""
    if os.geteuid() == 0:
        return False  # it is root's own
    with contextlib.suppress(OSError):
        lines = settings.read_text(encoding="utf-8", errors="replace").splitlines()
        return "user_allow_other" in map(str.strip, lines)
    return False


def say(message: Mapping[str, Any]) -> None:
    """One line for the command that started this; then its pipe is closed."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        os.close(nothing)


def _say_why(error: Exception) -> None:
    """That the server does not start, and why."""
    if isinstance(error, VmBackupError):
        say({"error": error.message, "hint": error.hint, "code": int(error.exit_code)})
    else:
        say({"error": f"{type(error).__name__}: {error}", "hint": "", "code": 1})
