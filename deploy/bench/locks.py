"""How long a VM is locked while it is backed up: nobody can start it meanwhile.

VirtualBox locks it for whoever exports it, and for whoever reads its disks through it. So what
counts is how long a VBoxManage runs that does so, among the children of this process and theirs;
it is looked for each few milliseconds. What locks it for a moment only is not seen.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

_LOOK_SECONDS: Final = 0.005
_LOCKING: Final = frozenset({b"export", b"mediumio"})


class LockWatch:
    """Watches from `with` on; `seconds` is how long a VM was locked."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        last, locked = time.monotonic(), False
        while not self._end.wait(_LOOK_SECONDS):
            now = time.monotonic()
            if locked:
                self.seconds += now - last
            last, locked = now, locks_a_vm()


def locks_a_vm() -> bool:
    """Whether a child of this process, or one of theirs, does."""
    return any(map(_locks, _children(Path("/proc/self"))))


def _locks(process: Path) -> bool:
    with contextlib.suppress(OSError):
        return not _LOCKING.isdisjoint((process / "cmdline").read_bytes().split(b"\0"))
    return False  # it has ended


def _children(process: Path) -> Iterator[Path]:
    """The children of a process, and theirs."""
    with contextlib.suppress(OSError):
        for thread in (process / "task").iterdir():
            for child in (thread / "children").read_bytes().split():
                found = Path("/proc", child.decode())
                yield found
                yield from _children(found)
