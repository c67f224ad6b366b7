"""The turn of one writer of this host: the others wait in the kernel, not at the NAS.

The lease on the database knows no order: whoever happens to look first has it, most often the
writer that has just released it. So the writers of one host wait for a lock in its state directory
before one of them tries for the lease. It is the system's own lock: it ends with the process,
however it ends. Nothing depends on it but how long a writer waits.
"""

import fcntl
import logging
import os
from pathlib import Path
from typing import Final

log: Final = logging.getLogger(__name__)


class Turn:
    """One writer's turn among those of this host; `path` is a local file, None: nobody waits."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> None:
        """Waits, for as long as it takes, until it is this writer's turn.

        Where the system gives no lock, it is at once.
        """
        if self._path is None:
            return
        descriptor = None
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            descriptor = os.open(self._path, flags, 0o640)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            log.debug("the writers of this host do not wait for each other: %s", error)
            if descriptor is not None:
                os.close(descriptor)
            return
        self._descriptor = descriptor

    def pass_on(self) -> None:
        """It is the next writer's turn. May be repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
