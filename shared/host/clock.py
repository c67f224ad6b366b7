"""The only module that asks what time it is.

Tests replace the clock; nothing else needs to be patched.
"""

import random
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

#: How far apart the clocks of two hosts may be. A time that lies further ahead was written by a
#: clock that was wrong, or is read by one.
TOLERANCE: Final = timedelta(minutes=5)


class Clock(Protocol):
    """Three different questions about time; each answer is good for one purpose only."""

    def now(self) -> datetime:
        """The wall clock in UTC.

        For display and file names; never compared between hosts, never decides who owns what.
        """

    def monotonic(self) -> float:
        """Seconds that never go back and stand still while the machine sleeps.

        For watching others: errs on the patient side.
        """

    def boottime(self) -> float:
        """Seconds that go on while the machine sleeps.

        For one's own deadlines: errs on the strict side.
        """

    def sleep(self, seconds: float) -> None:
        """Waits."""

    def jitter(self, limit: float) -> float:
        """A random number of seconds below `limit`: hosts that collided do not collide again."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """See `Clock.now`."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()

    def boottime(self) -> float:
        """See `Clock.boottime`."""
        identifier = sleepless_clock()
        return time.monotonic() if identifier is None else time.clock_gettime(identifier)

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        time.sleep(seconds)

    def jitter(self, limit: float) -> float:
        """See `Clock.jitter`."""
        return random.uniform(0, limit)  # noqa: S311 - spreads load, hides nothing


def sleepless_clock(platform: str = sys.platform, clocks: object = time) -> int | None:
    """The system's clock that goes on while the machine sleeps; None if it has none.

    Linux: CLOCK_BOOTTIME. macOS: CLOCK_MONOTONIC_RAW, while Python's `time.monotonic` stands still
    there in sleep, as it does on Linux.
    """
    return getattr(
        clocks, "CLOCK_MONOTONIC_RAW" if platform == "darwin" else "CLOCK_BOOTTIME", None
    )


def timestamp(moment: datetime) -> str:
    """`moment` as the database and the sidecar files write it: `2026-11-22T20:38:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime:
    """The inverse of `timestamp`. Raises ValueError."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def age(now: datetime, stamp: str | None) -> timedelta | None:
    """How long ago a stored time was.

    None if it says nothing: it is no time, or lies ahead by more than `TOLERANCE`. Never negative.

    Whatever compares a stored time with now asks this or `is_over`, so that a clock that was once
    wrong silences nothing.
    """
    try:
        passed = now - parse_timestamp(stamp or "")
    except ValueError:
        return None
    return None if passed < -TOLERANCE else max(passed, timedelta())


def is_over(now: datetime, stamp: str | None, seconds: float) -> bool:
    """Whether so many seconds have passed since a stored time.

    One that says nothing is over: better once too often than never again.
    """
    passed = age(now, stamp)
    return passed is None or passed.total_seconds() >= seconds


def is_ahead(now: datetime, stamp: str | None) -> bool:
    """Whether a stored time lies so far ahead that a clock was wrong, or is."""
    try:
        return parse_timestamp(stamp or "") - now > TOLERANCE
    except ValueError:
        return False
