"""The end of a server of disks when it is asked for, whatever its threads are waiting for."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Final

from shared.host.errors import VmBackupError

_END_SECONDS: Final = 5.0
_DONE: Final = 0


@contextlib.contextmanager
def ended_by_sigterm(unmount: Callable[[], None], seconds: float = _END_SECONDS) -> Iterator[None]:
    """Within, in the main thread, SIGTERM calls `unmount`, and ends the process soon after.

    Whoever waits for a NAS that hangs, or has a file open there, keeps it for `seconds` at most.
    """
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    left = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # else libfuse would take it
    signal.set_wakeup_fd(sink)  # the main thread is in libfuse, where no handler of ours runs
    waiter = threading.Thread(target=_wait, args=(source, unmount, left, seconds), name="ending")
    waiter.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)
        os.write(sink, bytes([_DONE]))
        waiter.join()
        os.close(sink)
        os.close(source)


def _wait(source: int, unmount: Callable[[], None], left: threading.Event, seconds: float) -> None:
    while signal.SIGTERM not in (said := os.read(source, 64)):
        if _DONE in said:
            return
    with contextlib.suppress(VmBackupError, OSError):
        unmount()
    if not left.wait(seconds):
        os._exit(0)
