"""The end of mounts in which the disks of VMs are that run from copies, and of their servers."""

import os
import signal
import time
from dataclasses import replace
from typing import Final

from shared.host.errors import LockedError, UsageError
from shared.host.host_lock import host_lock
from shared.host.process_identity import is_stopped
from shared.host.processes import Runner
from shared.host.waits import pausing
from shared.serving import places
from shared.serving.asking import Life
from shared.tasks import boot_mounts
from shared.tasks.boot_mounts import mount_of
from shared.tasks.boot_note import BootNote
from shared.virtualbox import scratch

_SERVER_SECONDS: Final = 60.0
_GRACE_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.2


def is_served(note: BootNote) -> bool:
    """Whether the disks are there, and their server answers."""
    found = mount_of(note)
    return found is not None and found.alive


def require_answer(note: BootNote) -> None:
    """Raises `LockedError` if whoever serves the disks, or settles, was stopped or hangs.

    Before VirtualBox is asked for the VM, or anybody for its disks: those wait as long as it does.
    """
    note = replace(note, folder=boot_mounts.moved_to(note) or note.folder)
    server = note.server
    known = server is not None and server.is_certain()
    pid = server.pid if server is not None and known else None
    who = "their server" if pid is None else f"their server, process {pid},"
    if pid is not None and is_stopped(pid):
        raise LockedError(
            f"the disks of {note.name!r} in {note.place} do not answer: {who} was stopped",
            hint=f"`kill -CONT {pid}` lets it go on; then again",
        )
    found = mount_of(note)
    if found is not None and found.life() == Life.HANGS:
        which = "PID" if pid is None else str(pid)
        find = "`pgrep -af coordinator.booting.disk_server` names it; " if pid is None else ""
        raise LockedError(
            f"the disks of {note.name!r} in {note.place} do not answer: {who} hangs, or waits for "
            "the NAS",
            hint=f"when the NAS is away: again when it is back; else {find}`kill -KILL {which}` "
            "ends it: what its guest had flushed is kept; then again",
        )


def answers(note: BootNote) -> bool:
    """Whether the disks are served. Raises like `require_answer`."""
    require_answer(note)
    return is_served(note)


def unmount(note: BootNote, runner: Runner, *, lazily: bool = False) -> None:
    """Unmounts the disks, if they are mounted. Raises `LockedError` while one is open."""
    found = mount_of(note)
    if found is not None:
        places.unmount(found, runner, lazily=lazily)


def make_free(note: BootNote, runner: Runner) -> None:
    """Takes away what a server that died has left: then the disks can be served again.

    Raises `LockedError` if they are served, `UsageError` if there are other files in that place.
    """
    if is_served(note):
        raise LockedError(f"the disks of {note.name!r} are served already")
    unmount(note, runner, lazily=True)
    if not any(note.place.iterdir()):
        return
    if scratch.mark_in(note.folder) != note.mark:  # it went when the VM was let go of
        raise UsageError(
            f"{note.file} is older than the VM {note.name!r}, which is an ordinary one",
            hint=f"its disks are in {note.place}: leave them there, and remove that note",
        )
    raise UsageError(
        f"{note.place} is not empty", hint="move what is in it: nothing of it is of use"
    )


def wait_for_server(note: BootNote, *, grace_seconds: float = _GRACE_SECONDS) -> None:
    """Ends whoever serves or fills the disks, which are not mounted any more and needed by nobody.

    It has `grace_seconds` to end by itself. Raises `LockedError` if that takes long.
    """
    begin = time.monotonic()
    pause = pausing(time.sleep, f"the end of the server of {note.place}", _SERVER_SECONDS)
    while True:
        with host_lock(note.file.parent, note.server_lock) as gone:
            if gone:
                return
        waited = time.monotonic() - begin
        if waited > _SERVER_SECONDS:
            raise LockedError(f"the server of {note.place} does not end", hint="try again soon")
        server = note.server
        if waited > grace_seconds and server is not None and server.is_certain():
            os.kill(server.pid, signal.SIGKILL)  # a dying VM may hold the mount for a while
        pause(_POLL_SECONDS)
