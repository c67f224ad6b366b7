"""Waiting for what a test cannot hasten: as long as it takes, and no longer."""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

_LONGEST_PAUSE = 0.05


class Polled(Protocol):
    """A process, an export: whatever says whether it has ended."""

    def poll(self) -> object:
        """Something true when it has ended."""


Ending = TypeVar("Ending", bound=Polled)


def wait_for(condition: Callable[[], object], what: str = "it", seconds: float = 180) -> None:
    """Polls until the condition holds; AssertionError after `seconds`."""
    end, pause = time.monotonic() + seconds, 0.001
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def ended(process: Ending, seconds: float = 180) -> Ending:
    """Waits for its end, and answers it; AssertionError after `seconds`."""
    wait_for(process.poll, "its end", seconds)
    return process
