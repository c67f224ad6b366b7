"""The end of a server that does not answer any more."""

import os
import signal
from pathlib import Path
from typing import Final

import psutil

from shared.host.process_identity import ProcessIdentity, wait_until_gone
from shared.serving.noted_places import NOTE

#: What is served by it is named behind it, so that a server can be told by its command.
MODULE: Final = "coordinator.mounting.copy_server"
#: The parent of other programs that serve; it has the note of the place open.
PARENT_MODULE: Final = "coordinator.mounting.qemu_server"
_DEVICE: Final = "/dev/fuse"
_GONE_SECONDS: Final = 5.0


def server_of(place: str) -> ProcessIdentity | None:
    """The process of this user that serves a mount; None if none is found.

    It is one of ours by its command, which names the place, and has the device of FUSE open, or
    the note.
    """
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            ours = MODULE in words or PARENT_MODULE in words
            if ours and words[-1:] == [place] and process.uids().real == os.getuid():
                found = ProcessIdentity.of(process.pid)
                if found is not None and _serves(process.pid, place):
                    return found
        except psutil.Error:
            continue
    return None


def kill(server: ProcessIdentity) -> bool:
    """Ends it; whether it is gone. One that waits for a NAS that is away may go only with that."""
    if server.is_certain():
        os.kill(server.pid, signal.SIGKILL)
    return wait_until_gone(server, timeout_seconds=_GONE_SECONDS)


def _serves(pid: int, place: str) -> bool:
    signs = (_DEVICE, os.path.join(place, NOTE))
    try:
        return any(os.readlink(each) in signs for each in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
