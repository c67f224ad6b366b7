"""What copies take on the NAS, how that grows, when it is full, what keeping more would cost. Pure.

What is not known is not guessed: whether copies share blocks, if the system does not tell; when the
NAS is full, if it was not watched for long enough.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import combinations, pairwise
from statistics import median
from typing import Final

from shared.copies.retention import Rules, reasons_of
from shared.reports.space_history import Sample

#: Looks of fewer days than that say nothing of how a NAS fills, nor do fewer looks.
ENOUGH_DAYS: Final = 7.0
ENOUGH_LOOKS: Final = 5
#: How far one looks back, and ahead.
WATCHED_DAYS: Final = 28.0
AHEAD_DAYS: Final = 730.0
#: So old copies are imagined of a VM at most, to see how many of them rules would keep.
_IMAGINED_DAYS: Final = 365_000
_DAY: Final = 86400.0
#: A NAS whose size differs by no more than this part of it from one day to the next is as it was.
_SAME_SIZE: Final = 0.01


@dataclass(frozen=True, slots=True)
class CopySpace:
    """One copy: when it was begun, its bytes, those that are its own, and those on the disk.

    `own` are the bytes that were not taken over from the copy before it.
    """

    stamp: str
    begun: datetime
    size: int
    own: int
    archived: bool = False


@dataclass(frozen=True, slots=True)
class VmSpace:
    """A VM's copies. They take between `least` and `most` bytes, which are equal if that is known.

    `other` are bytes of files in its directory that belong to no copy.
    """

    vm: str
    host: str
    copies: tuple[CopySpace, ...]
    least: int
    most: int
    other: int = 0

    @property
    def size(self) -> int:
        """The bytes of all copies, as if none shared anything."""
        return sum(copy.size for copy in self.copies)

    @property
    def archived(self) -> int:
        """Those of them that are in the archive."""
        return sum(copy.size for copy in self.copies if copy.archived)

    def made_since(self, moment: datetime) -> int:
        """The own bytes of the copies that were begun since then and are there."""
        return sum(copy.own for copy in self.copies if copy.begun >= moment)


@dataclass(frozen=True, slots=True)
class Growth:
    """How a NAS fills: bytes a day, from so many looks over so many days."""

    per_day: float
    looks: int
    days: float


@dataclass(frozen=True, slots=True)
class WatchedSpace:
    """The looks of the last weeks that count: those since the size of the NAS `changed`, if it did.

    The oldest comes first.
    """

    looks: tuple[Sample, ...]
    changed: datetime | None = None

    @property
    def words(self) -> str:
        """That one began anew, to follow what is said of the looks; empty if one did not."""
        if self.changed is None:
            return ""
        return f", since the size of the NAS changed on {self.changed:%Y-%m-%d}"


def watched(samples: Sequence[Sample], now: datetime) -> WatchedSpace:
    """What there is to tell how the NAS fills: what was before its size changed does not count.

    The size that a server tells of one share of many follows a little what others write (ZFS).
    """
    seen = sorted(
        (one for one in samples if now - timedelta(days=WATCHED_DAYS) <= one.when <= now),
        key=lambda one: one.when,
    )
    for number in range(len(seen) - 1, 0, -1):
        before, after = seen[number - 1].total, seen[number].total
        if abs(after - before) > _SAME_SIZE * max(before, after):
            return WatchedSpace(tuple(seen[number:]), seen[number].when)
    return WatchedSpace(tuple(seen))


def growth(seen: Sequence[Sample]) -> Growth | None:
    """How fast the NAS has filled, by looks that count; None if they are too few.

    The median of what lies between any two looks: what retention frees in one go, or a large file
    that came and went, does not change it much.
    """
    days = (seen[-1].when - seen[0].when).total_seconds() / _DAY if seen else 0.0
    if days < ENOUGH_DAYS or len(seen) < ENOUGH_LOOKS:
        return None
    slopes = [
        (before.free - after.free) / ((after.when - before.when).total_seconds() / _DAY)
        for before, after in combinations(seen, 2)
        if after.when > before.when
    ]
    return Growth(median(slopes), len(seen), days)


def full_on(free: int, reserve: int, per_day: float, now: datetime) -> date | None:
    """When no backup begins any more because the NAS is full; None: not within two years."""
    if free <= reserve:
        return now.astimezone(UTC).date()
    if per_day <= 0 or (free - reserve) / per_day > AHEAD_DAYS:
        return None
    return (now + timedelta(days=(free - reserve) / per_day)).astimezone(UTC).date()


@dataclass(frozen=True, slots=True)
class Cost:
    """What other rules would cost for a VM: copies more, or less, and bytes in the end.

    `every_days`: how often it gets a copy; `assumed`: that is not known, it is taken for one a day.
    """

    copies: int
    size: int
    every_days: float
    assumed: bool


def cost(vm: VmSpace, now_rules: Rules, then_rules: Rules) -> Cost | None:
    """What `then_rules` would cost in the end, if the VM goes on as before. None without a copy."""
    mine = sorted((copy for copy in vm.copies if not copy.archived), key=lambda copy: copy.begun)
    if not mine:
        return None
    span = (mine[-1].begun - mine[0].begun).total_seconds() / _DAY
    gaps = [(after.begun - before.begun).total_seconds() / _DAY for before, after in pairwise(mine)]
    assumed = len(mine) < 3 or span < 2
    # the newest copies are all there, however many of the older ones retention has let go
    every = 1.0 if assumed else max(median(gaps[-5:]), 1 / 24)
    every = round(every, 2)
    copies = _kept(then_rules, every) - _kept(now_rules, every)
    return Cost(copies, copies * round(_marginal(mine)), every, assumed)


def _marginal(copies: Sequence[CopySpace]) -> float:
    """What one copy more takes: what the newest few have of their own."""
    newest = copies[-5:]
    return sum(copy.own for copy in newest) / len(newest)


@lru_cache(maxsize=4096)
def _kept(rules: Rules, every_days: float) -> int:
    """How many copies rules keep in the end of a VM that gets one every so many days."""
    newest = datetime(2026, 12, 31, 12, tzinfo=UTC)
    periods = rules.keep_daily + 7 * rules.keep_weekly + 31 * rules.keep_monthly
    days = periods + 366 * rules.keep_yearly + 31
    many = rules.keep_last + rules.keep_daily
    # of the older ones at most one a day counts
    ages = [number * every_days for number in range(many)]
    seldom = max(every_days, 1.0)
    ages += [ages[-1] + number * seldom for number in range(1, int(days / seldom) + many + 1)]
    moments = [newest - timedelta(days=min(age, _IMAGINED_DAYS)) for age in ages]
    return sum(bool(reasons) for reasons in reasons_of(moments, rules))


def per_host(vms: Iterable[VmSpace]) -> list[tuple[str, int, int, int, int]]:
    """By host: its name, VMs, copies, bytes as if none were shared, and most bytes taken."""
    found: dict[str, list[VmSpace]] = {}
    for vm in vms:
        found.setdefault(vm.host, []).append(vm)
    return [
        (
            host,
            len(mine),
            sum(len(vm.copies) for vm in mine),
            sum(vm.size for vm in mine),
            sum(vm.most for vm in mine),
        )
        for host, mine in sorted(found.items())
    ]
