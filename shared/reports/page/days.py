"""What became of a VM on each of the last days: the strip of the page. Pure.

A day is one of UTC. It is `unused` only if somebody looked, or looked later and found that nothing
had changed; `nobody looked` only if that is certain; else it is not known.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from shared.state.records import VmRecord
from shared.state.sessions.host_look import HostLook
from shared.state.states import State
from shared.state.store.summary import Summary

DAYS: Final = 60


class DayMark(StrEnum):
    """What became of a VM on a day, as one letter."""

    COPIED = "c"
    UNUSED = "u"
    WAITED = "w"
    FAILED = "f"
    NOBODY = "n"
    UNKNOWN = "-"


#: What a mark means, in the order in which the page explains them.
WORDS: Final[Mapping[DayMark, str]] = {
    DayMark.COPIED: "copied",
    DayMark.UNUSED: "unused",
    DayMark.WAITED: "used, not copied yet",
    DayMark.FAILED: "failed",
    DayMark.NOBODY: "nobody looked",
    DayMark.UNKNOWN: "not known",
}


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of days that are over: the end of each, as the database kept it."""

    days: Sequence[str]
    ends: Mapping[str, Summary]


def last_days(now: float, count: int = DAYS) -> list[str]:
    """The last days, today included, the oldest first."""
    today = datetime.fromtimestamp(now, UTC).date()
    return [str(today - timedelta(days=back)) for back in range(count - 1, -1, -1)]


def day_of(moment: float) -> str:
    """The day in which a moment (seconds since the epoch) lies."""
    return f"{datetime.fromtimestamp(max(0.0, moment), UTC):%Y-%m-%d}"


def strip(
    record: VmRecord, look: HostLook | None, past: Past, copied: Collection[str]
) -> list[DayMark]:
    """A mark for each day. `copied` are days in which copies were finished that are still there."""
    last = look.vms.get(record.uuid) if look else None
    same = look.unchanged.get(record.uuid) if look else None
    sure = _Sure(
        day_of(last) if last else "",
        day_of(min(look.since, look.known)) if look and last else "9",
        day_of(same) if same else "",
        record.last_copy.stamp if record.last_copy else "",
        [(day_of(begun), day_of(ended)) for begun, ended in look.breaks] if look else [],
    )
    return [
        DayMark.COPIED if day in copied else _mark(day, past.ends.get(day), record, sure)
        for day in past.days
    ]


@dataclass(frozen=True, slots=True)
class _Sure:
    """Days of which something is certain.

    The last look; since when all breaks between looks are known; the last day on which the VM was
    as its newest copy, `stamp`, has it; and these breaks, each from the day of the look before it
    to that of the look behind it.
    """

    looked: str
    since: str
    unchanged: str
    stamp: str
    breaks: Sequence[tuple[str, str]]

    def nobody_looked(self, day: str) -> bool:
        """Whether that is certain."""
        over = bool(self.looked) and day > self.looked
        return over or any(begun < day < ended for begun, ended in self.breaks)


def _mark(day: str, end: Summary | None, record: VmRecord, sure: _Sure) -> DayMark:
    was = end.vms.get(record.uuid) if end else None
    if end is None or was is None or was.status == State.ARCHIVED or was.left_out:
        return DayMark.UNKNOWN
    if was.finished.startswith(day):
        return DayMark.COPIED
    if was.failed.startswith(day):
        return DayMark.FAILED
    same_host = was.node == record.node
    if same_host and record.status != State.ARCHIVED and sure.nobody_looked(day):
        return DayMark.NOBODY
    looked = same_host and sure.since <= day <= sure.looked
    looked = looked or end.began.get(was.node, "").startswith(day)
    if was.status != State.CLEAN:
        return DayMark.WAITED if looked else DayMark.UNKNOWN
    as_copied = was.stamp == sure.stamp and day <= sure.unchanged
    return DayMark.UNUSED if as_copied or looked else DayMark.UNKNOWN


def sizes(
    record: VmRecord, past: Past, known: Mapping[str, tuple[str, int]]
) -> list[tuple[int, int]]:
    """Sizes of copies over these days: the number of the day, and bytes, the oldest first.

    `known` are copies that are still there: by stamp, when they were finished and their bytes.
    """
    found = {
        was.stamp: (was.finished, was.size)
        for end in past.ends.values()
        if (was := end.vms.get(record.uuid)) and was.stamp
    }
    numbers = {day: number for number, day in enumerate(past.days)}
    points = sorted({**found, **known}.values())
    return [(numbers[when[:10]], size) for when, size in points if when[:10] in numbers]


def counted(marks: Sequence[DayMark]) -> str:
    """The strip for those who do not see it: `12 copied, 48 unused`."""
    return ", ".join(f"{marks.count(mark)} {WORDS[mark]}" for mark in DayMark if mark in marks)
