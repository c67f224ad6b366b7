"""Threads that pass work on to each other through bounded queues, and end at the first error."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

#: How soon a waiting thread notices that the work was cancelled.
_POLL_SECONDS: Final = 0.1


class CancelledError(Exception):
    """The work was cancelled."""


class Stage(Generic[Item]):
    """Handles items in threads of its own: in the order in which they come, if it is one thread.

    The first error of the handler ends the stage and is raised to whoever puts the next item, or
    finishes. The threads are daemons: one that hangs in the kernel (a NAS that is gone) does not
    keep the process from ending.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[Item], None],
        *,
        capacity: int,
        cancelled: threading.Event,
        threads: int = 1,
    ) -> None:
        self._handle = handle
        self._capacity = capacity
        self._cancelled = cancelled
        self._items: deque[Item] = deque()
        self._change = threading.Condition()
        self._unfinished = 0
        self._ended = False
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"engine-{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, item: Item) -> None:
        """Hands an item over, waits while the queue is full.

        Raises the handler's error, or `CancelledError`.
        """
        with self._change:
            self._wait(lambda: len(self._items) < self._capacity)
            self._items.append(item)
            self._unfinished += 1
            self._change.notify_all()

    def finish(self) -> None:
        """Waits until all items are handled. Raises the handler's error, or `CancelledError`."""
        with self._change:
            self._wait(lambda: self._unfinished == 0)

    def end(self, timeout_seconds: float) -> bool:
        """Drops what waits and ends the threads.

        False if one still runs after `timeout_seconds`: what it uses must not be closed.
        """
        with self._change:
            self._ended = True
            self._items.clear()
            self._change.notify_all()
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _wait(self, condition: Callable[[], bool]) -> None:
        while True:
            if self._cancelled.is_set():
                raise CancelledError
            if self._error:
                raise self._error
            if condition():
                return
            self._change.wait(_POLL_SECONDS)

    def _run(self) -> None:
        while True:
            with self._change:
                while not (self._items or self._ended):
                    self._change.wait()
                if self._ended:
                    return
                item = self._items.popleft()
                self._change.notify_all()
            try:
                self._handle(item)
            except BaseException as error:  # noqa: BLE001 - it is raised again to whoever feeds this stage
                with self._change:
                    self._error = self._error or error
                    self._ended = True
            del item
            with self._change:
                self._unfinished -= 1
                self._change.notify_all()
