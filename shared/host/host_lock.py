"""Locks among the processes of one host, in its state directory.

They are the system's own: they end with the process, however it ends.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.host.errors import ConfigurationError
from shared.host.shortage import room_hint

#: What the kernel knows of locks; each line has device and inode of the file.
_TABLE: Final = Path("/proc/locks")


def is_held(state_directory: Path, name: str, table: Path = _TABLE) -> bool:
    """Whether a process has the lock `name`, as the kernel lists it. Takes and makes nothing.

    False where nobody can say: where there is no such list, or only another user may look.
    """
    try:
        inode = os.stat(state_directory / f"{name}.lock").st_ino
        lines = table.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    return any(f":{inode} " in line for line in lines if "->" not in line)


@contextlib.contextmanager
def host_lock(state_directory: Path, name: str) -> Iterator[bool]:
    """Takes the lock `name` of this host; yields False, at once, if another process has it.

    Raises `ConfigurationError` if the state directory cannot be used: it cannot be made, is another
    user's, read-only, or full.
    """
    from filelock import FileLock, Timeout

    mine = True
    try:
        state_directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        lock = FileLock(state_directory / f"{name}.lock")
        lock.acquire(timeout=0)
    except Timeout:
        mine = False
    except (OSError, NotImplementedError) as error:  # the latter: its file system has no locks
        raise ConfigurationError(
            (
                f"this host's own directory {state_directory} cannot be used: "
                f"{getattr(error, 'strerror', None) or error}"
            ),
            hint=room_hint(error)
            or "run as the user of the workers, or set host.state_directory to a local "
            "directory that this user may write",
        ) from error
    try:
        yield mine
    finally:
        if mine:
            lock.release()
