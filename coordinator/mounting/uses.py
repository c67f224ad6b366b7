"""Whether somebody uses a mounted copy."""

import threading
import time
from collections.abc import Callable


class Uses:
    """Whether anybody uses the files: open ones, and when something was last asked for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open = 0
        self._last = clock()
        self._lock = threading.Lock()

    def touch(self, opened: int = 0) -> None:
        """Something was asked for; `opened` is 1 for a file that was opened, -1 for its end."""
        with self._lock:
            self._open += opened
            self._last = self._clock()

    def idle_seconds(self) -> float:
        """For how long nothing was asked for; 0 while a file is open."""
        with self._lock:
            return 0.0 if self._open > 0 else self._clock() - self._last
