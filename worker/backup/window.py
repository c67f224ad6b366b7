"""The hours in which exports may start.

Pure: what time it is, and how long an export takes, are arguments.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from shared.copies.sidecar import Sidecar
from shared.host.hours import opening


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether an export may start now. `reason` says why not; empty: it may.

    `never`: nor at any other time, as things are.

    `nas`: it is the NAS that keeps it waiting, and somebody has to do something about that;
    `details` has figures, `reason` none that change from tick to tick, because it is committed.
    """

    reason: str = ""
    never: bool = False
    nas: bool = False
    details: str = ""


def judge(
    window: str, now: datetime, expected_seconds: float | None = None, zone: tzinfo | None = None
) -> Readiness:
    """Whether an export that takes about `expected_seconds` may start at `now` (aware).

    None: nobody knows how long it takes. `window` is as in the configuration: `22:00-06:00`, in the
    local time of `zone` (None: this machine's), through midnight if it ends before it begins;
    empty, or with both times equal, it is always. An export that would not end within the window
    does not start, one that is longer than the whole window never does. The reason says nothing
    that changes from minute to minute.
    """
    if not window or window[:5] == window[6:]:
        return Readiness()
    hours = opening(window, now, zone)
    if hours is None:
        return Readiness(f"waits for its window {window}")
    begin, end = hours
    if expected_seconds is None or now.astimezone(UTC) + timedelta(seconds=expected_seconds) <= end:
        return Readiness()
    takes = f"its export takes about {_duration(expected_seconds)}"
    if timedelta(seconds=expected_seconds) > end - begin:
        return Readiness(f"{takes}, longer than its whole window {window}", never=True)
    return Readiness(
        f"{takes}, too long for what is left of its window {window}: waits for the next one"
    )


def expected_seconds(source_bytes: int, last: Sidecar | None) -> float | None:
    """How long an export will take.

    As long as the last one, in proportion to the bytes on the VM's disks. None if there was none.
    """
    if last is None or not last.duration_seconds:
        return None
    return last.duration_seconds * (source_bytes / last.source_bytes if last.source_bytes else 1)


def _duration(seconds: float) -> str:
    if seconds < 90 * 60:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h"
