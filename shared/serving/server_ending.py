"""The end of a server that does not answer any more."""

import contextlib
import os
import re
import signal
from pathlib import Path
from typing import Final

import psutil

from shared.host.process_identity import ProcessIdentity, is_stopped, wait_until_gone
from shared.serving import noted_places
from shared.serving.asking import Life
from shared.serving.noted_places import NOTE

#: What is served by it is named behind it, so that a server can be told by its command.
MODULE: Final = "coordinator.mounting.copy_server"
#: The parent of other programs that serve; it has the note of the place open.
PARENT_MODULE: Final = "coordinator.mounting.qemu_server"
_DEVICE: Final = "/dev/fuse"
_GONE_SECONDS: Final = 5.0
#: What older programs called that module: their servers name no place.
_FORMER_MODULE: Final = "coordinator.mounting.server"
_TABLE: Final = Path("/proc/self/mounts")
#: Which column there has the options.
_OPTIONS: Final = 3
_USER: Final = re.compile(rb"(?:^|,)user_id=(\d{1,10})(?:,|$)")
_ESCAPED: Final = re.compile(rb"\\([0-3][0-7]{2})")


def server_of(place: str, table: Path = _TABLE) -> ProcessIdentity | None:
    """The process of this user that serves a mount; None if none is found.

    It is one of ours by its command, which names the place, and has the device of FUSE open, or
    the note. For root it is one of the user whose mount it is by `table`, as long as it is mounted.
    That of an older program, whose command names no place, is not found.
    """
    user = os.getuid()
    if user == 0:
        user = _owner(place, table)
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            ours = MODULE in words or PARENT_MODULE in words
            if ours and words[-1:] == [place] and process.uids().real == user:
                found = ProcessIdentity.of(process.pid)
                if found is not None and _serves(process.pid, place):
                    return found
        except psutil.Error:
            continue
    return None


def stopped_in(server: ProcessIdentity) -> list[int]:
    """Those of it and what it started that were stopped, and go on only when they are told to."""
    try:
        started = psutil.Process(server.pid).children(recursive=True)
    except psutil.Error:
        started = []
    return [each for each in (server.pid, *(one.pid for one in started)) if is_stopped(each)]


def life_of_noted(place: str) -> Life:
    """What the server of files is like that are mounted one by one. It is not asked.

    It hangs if it, or what it started, was stopped.
    """
    if not noted_places.served(Path(place)):
        return Life.GONE
    server = server_of(place)
    return Life.HANGS if server is not None and stopped_in(server) else Life.SERVED


def kill(server: ProcessIdentity) -> bool:
    """Ends it; whether it is gone. One that waits for a NAS that is away may go only with that."""
    if server.is_certain():
        os.kill(server.pid, signal.SIGKILL)
    return wait_until_gone(server, timeout_seconds=_GONE_SECONDS)


def end(place: str, server: ProcessIdentity | None) -> str:
    """Ends what `server_of` has found before the place was unmounted; what is said if it is not."""
    still = "still has to end: it does when it goes on"
    if server is None:
        return (
            f"the server of {place} was not found, and {still}. One of an older program does not "
            f"name its directory: `pgrep -af {_FORMER_MODULE}` lists these, `kill -KILL PID` ends "
            "one"
        )
    return "" if kill(server) else f"the server of {place} (process {server.pid}) {still}"


def _owner(place: str, table: Path) -> int:
    """The user who mounted what is there; this one if that is not said."""
    found = os.getuid()
    with contextlib.suppress(OSError):
        for line in table.read_bytes().split(b"\n"):
            words = line.split(b" ")
            if len(words) > _OPTIONS and _ESCAPED.sub(_unescaped, words[1]) == os.fsencode(place):
                said = _USER.search(words[_OPTIONS])
                found = int(said[1]) if said else found
    return found


def _unescaped(found: re.Match[bytes]) -> bytes:
    return bytes([int(found[1], 8)])


def _serves(pid: int, place: str) -> bool:
    signs = (_DEVICE, os.path.join(place, NOTE))
    try:
        return any(os.readlink(each) in signs for each in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
