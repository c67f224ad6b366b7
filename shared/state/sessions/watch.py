"""Telling a silent process from one that merely cannot be heard, without comparing clocks.

A process is silent when its heartbeat was *seen* not to change for the whole lease time, on the
watcher's own clock. Time during which the watcher did not look (it was paused, the NAS hung, the
machine slept) does not count.
"""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass
class Watch(Generic[V]):
    """Watches one value. `poll_seconds` is how often the watcher means to look."""

    lease_seconds: float
    poll_seconds: float
    _value: V | None = None
    _last: float | None = field(default=None)
    #: Seconds for which the value was seen unchanged.
    unchanged_seconds: float = 0.0

    def observe(self, value: V, before: float) -> bool:
        """Takes note of `value`, read after the moment `before` (monotonic seconds).

        Answers whether the lease time is over.

        `before` must have been taken before the read began: a read that hung for minutes must not
        count as minutes of silence.
        """
        if self._last is None or value != self._value:
            self.unchanged_seconds = 0.0
        elif 0 <= before - self._last <= 2 * self.poll_seconds:
            self.unchanged_seconds += before - self._last
        self._value, self._last = value, before
        return self.unchanged_seconds >= self.lease_seconds

    def changed(self, value: V) -> bool:
        """Whether `value` differs from the last one observed."""
        return self._last is not None and value != self._value
