"""A program of its own: serves a copy as files until it is unmounted, or nobody used it for long.

What to serve comes by standard input as one JSON object. When the files are there it says `ready`
on standard output and closes that; before, it says there what went wrong. It holds the copy by a
session of its own, as long as there is a database: killed, it is a dead session as any other.
"""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from coordinator.fuse import server_process
from coordinator.mounting.held_copy import held
from coordinator.mounting.shown_files import CopyView
from coordinator.mounting.uses import Uses
from shared.host.errors import VmBackupError
from shared.host.processes import SubprocessRunner
from shared.serving.places import SUBTYPE, at, unmount

_LOOK_SECONDS: Final = 2.0
#: A NAS that has not answered after so long is away, for a rehearsal.
_STRICT_SECONDS: Final = 30.0


def main() -> None:
    """Serves what standard input says, and says on standard output that it does."""
    server_process.run(_work)


def _work(job: Mapping[str, Any]) -> None:
    with CopyView(Path(job["ova"])) as view, held(job):
        serve(view, job)


class StrictReader:
    """Ends the server at the first read that fails, or is not answered for too long.

    Whoever waits for it gets an error then, and the mount is dead for all who look. `end` ends the
    server; a read may take `seconds`, and is looked at every `look_seconds`.
    """

    def __init__(
        self,
        read: Callable[[str, int, int], bytes],
        *,
        seconds: float = _STRICT_SECONDS,
        look_seconds: float = _LOOK_SECONDS,
        end: Callable[[int], NoReturn] = os._exit,
    ) -> None:
        self._read, self._end = read, end
        self._seconds, self._look_seconds = seconds, look_seconds
        self._began: dict[int, float] = {}

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Reads, or ends the server."""
        thread = threading.get_ident()
        self._began[thread] = time.monotonic()
        try:
            return self._read(name, offset, length)
        except Exception:  # noqa: BLE001 - whatever it is, it is not what was asked for
            self._end(1)
        finally:
            self._began.pop(thread, None)

    def watch(self) -> None:
        """Ends the server as soon as a read was begun too long ago; until then it goes on."""
        while True:
            time.sleep(self._look_seconds)
            first = min(list(self._began.values()), default=math.inf)
            if time.monotonic() - first > self._seconds:
                self._end(1)


def serve(view: CopyView, job: Mapping[str, Any]) -> None:
    """Serves until it is unmounted. Raises RuntimeError if it cannot be mounted."""
    from coordinator.fuse.file_operations import Operations

    uses, place = Uses(), str(job["place"])
    watcher = threading.Thread(
        target=_unmount_when_idle, args=(uses, place, float(job["idle"])), daemon=True
    )

    strict = StrictReader(view.read) if job.get("strict") else None

    def ready() -> None:
        # of a VM on trial only the disks count
        problems = view.problems + ([] if strict else view.unread)
        server_process.say({"ready": True, "pid": os.getpid(), "problems": problems})
        watcher.start()
        if strict:
            threading.Thread(target=strict.watch, daemon=True).start()

    moment = view.ova.stat().st_mtime_ns
    server_process.serve(
        Operations(
            view.files,
            strict.read if strict else view.read,
            moment=moment,
            ready=ready,
            used=uses.touch,
        ),
        place,
        what=str(job["what"]),
        kind=SUBTYPE,
        **({"allow_root": True} if server_process.root_may_look() else {}),
    )


def _unmount_when_idle(uses: Uses, place: str, idle_seconds: float) -> None:
    runner = SubprocessRunner()
    while True:
        time.sleep(min(_LOOK_SECONDS, idle_seconds))
        found = at(Path(place)) if uses.idle_seconds() >= idle_seconds else None
        if found is not None:
            with contextlib.suppress(VmBackupError):
                unmount(found, runner)


if __name__ == "__main__":
    main()
