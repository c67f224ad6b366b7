"""Ending what a dead session left running on this machine.

The VBoxManage of its export, and nothing else.

What a heartbeat says was written by whoever may write to the NAS. So nothing in it is believed that
cannot be seen here as well.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil

from shared.host.host_identity import HostIdentity
from shared.host.process_identity import ProcessIdentity, wait_until_gone
from shared.state.host_records import SessionRecord
from shared.state.sessions.heartbeat import parse_beat, read_beat

log: Final = logging.getLogger(__name__)

_ORPHAN_SECONDS: Final = 20


def end_orphan(directory: Path, here: HostIdentity, row: SessionRecord) -> None:
    """Cancels the export that a dead session of this machine left behind.

    TERM, never KILL, which would leave VirtualBox at work.

    `directory` has the heartbeats. A process that is not certainly that export is left alone, and
    that is said. Never raises.
    """
    there = HostIdentity(row.node, row.hostname, row.machine, row.boot, row.space)
    if not here.same_machine(there) or not here.boot or here.boot != there.boot:
        return
    with contextlib.suppress(OSError, KeyError, TypeError, ValueError, OverflowError):
        orphan = _child(parse_beat(read_beat(directory, row.id))["child"])
        if not orphan.is_alive():
            return
        with _held(orphan.pid) as terminate:
            if doubt := _doubt(orphan):
                log.warning(
                    "process %d, which session %s is said to have started, is left alone: %s",
                    orphan.pid,
                    row.id,
                    doubt,
                )
                return
            log.warning(
                "cancelling the export that session %s left running (process %d)",
                row.id,
                orphan.pid,
            )
            terminate()
        wait_until_gone(orphan, timeout_seconds=_ORPHAN_SECONDS)


def _child(said: Any) -> ProcessIdentity:  # noqa: ANN401 - anything that JSON can hold
    if not isinstance(said, dict):
        raise TypeError("no child")
    command = said.get("command", [])
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise TypeError("no command")
    return ProcessIdentity(
        int(said["pid"]), float(said["started"]), str(said.get("born", "")), tuple(command)
    )


def _doubt(orphan: ProcessIdentity) -> str:
    """Why the process may be another one than the export that the heartbeat names.

    Empty if it is that.
    """
    try:
        process = psutil.Process(orphan.pid)
        words, user = process.cmdline(), process.uids().real
    except (psutil.Error, OSError) as error:
        return f"it cannot be looked at ({error})"
    if not orphan.is_certain():
        return "it started at another time"
    if user != os.getuid():
        return "it belongs to another user"
    if not _is_export(words):
        return "it is no VBoxManage export"
    if orphan.command and words[-len(orphan.command[1:]) :] != list(orphan.command[1:]):
        return "it was started as another command"
    return ""


def _is_export(words: list[str]) -> bool:
    """Whether a command line is that of `VBoxManage export`.

    Started directly, or through the script that most installations have.
    """
    programs = [
        position
        for position, word in enumerate(words)
        if Path(word).stem.casefold() == "vboxmanage"
    ]
    return bool(programs) and "export" in words[programs[0] + 1 :]


@contextlib.contextmanager
def _held(pid: int) -> Iterator[Callable[[], None]]:
    """What terminates the process of this number as it is now.

    Where the system can hold it, never one that gets the number later.
    """
    if sys.platform == "linux":
        descriptor = os.pidfd_open(pid)
        try:
            yield lambda: signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        finally:
            os.close(descriptor)
    else:
        yield lambda: os.kill(pid, signal.SIGTERM)
