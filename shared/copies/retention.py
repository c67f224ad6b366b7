"""Retention: which copies the rules keep (pure), and removing the others.

Nothing is removed without a permit of `shared.copies.permits`.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from shared.copies import catalogue, chronology, permits, protection, screenshots
from shared.copies.catalogue import Copy
from shared.copies.copy_files import NasFiles, Permit
from shared.copies.names import SIDES, Suffix, final_name
from shared.nas.nas_errors import reported
from shared.nas.reading import look, present

#: The checksum line first, as a mark that a removal has begun: a copy counts without it, and one
#: whose `.ova` somebody has put aside for a while still has it (`permits.leftover`). Then the
#: `.ova`: from then on the copy does not count, and what a crash leaves is small, worth nothing,
#: and removed by the next run. The other way round a crash would leave a large file of which nobody
#: knows what it is. The sidecar goes last, so that until the end it is known which copy was being
#: removed.
_REMOVAL_ORDER: Final[tuple[Suffix, ...]] = ("sha256", "ova", *SIDES, "index", "png", "json")


@dataclass(frozen=True, slots=True)
class Rules:
    """How many copies are kept.

    The newest ones, and the newest of each of so many days, weeks, months and years that have one
    (UTC).
    """

    keep_last: int = 2
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0

    def __post_init__(self) -> None:
        if (
            self.keep_last < 1
            or min(self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly) < 0
        ):
            raise ValueError("at least one copy is kept, and no rule counts below zero")


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one copy. `reasons` are the rules that keep it; without any it goes."""

    copy: Copy
    reasons: tuple[str, ...]

    @property
    def keep(self) -> bool:
        """Whether it stays."""
        return bool(self.reasons)


def select(
    copies: Iterable[Copy], rules: Rules, *, protect: Collection[str] = ()
) -> list[Decision]:
    """Decide for each copy whether it is kept, newest first.

    A copy belongs to the day on which it was begun. Only good copies count, and only good copies
    go: one that is damaged or incomplete stays until a person has looked at it. Those that an
    operator has pinned, or from which a VM runs, stay and use up no rule's number. What must stay
    whatever the rules say is in `protection.must_stay`.
    """
    found = list(copies)
    reasons = _by_rule(found, rules)
    for stamp, more in protection.must_stay(found, protect=protect).items():
        first = [reason for reason in more if reason == protection.NEWEST]
        reasons[stamp] = [
            *first,
            *reasons[stamp],
            *(reason for reason in more if reason not in first),
        ]
    return [Decision(copy, tuple(reasons[copy.stamp])) for copy in chronology.newest_first(found)]


def apply(
    files: NasFiles,
    directory: Path,
    uuid: str,
    rules: Rules,
    *,
    protect: Collection[str] = (),
    check: Callable[[], None] = lambda: None,
) -> list[str]:
    """Remove the copies of the VM `uuid` that no rule keeps, oldest first; returns their stamps.

    Also what an earlier run left half removed. Call it under a claim on the VM; `check` is called
    before each removal and raises when that is lost. `protect` are stamps that stay. May be
    repeated after a crash. Raises `NasError`.
    """

    def wanted(found: Iterable[Copy]) -> Collection[str]:
        return {
            decision.copy.stamp
            for decision in select(found, rules, protect=protect)
            if decision.keep
        }

    removed = remove_leftovers(files, directory, uuid)
    for decision in reversed(
        select(catalogue.read(directory, uuid).copies, rules, protect=protect)
    ):
        if decision.keep:
            continue
        check()
        permit = permits.superseded(directory, uuid, decision.copy.stamp, wanted, protect=protect)
        if permit is not None:
            remove_copy(files, permit)
            removed.append(permit.stamp)
    return removed


def remove_copy(files: NasFiles, permit: Permit) -> None:
    """Remove the files of one copy: its checksum line, its `.ova`, then the others.

    What is gone already is no error. Raises `NasError`.
    """
    with reported(f"remove the copy {permit.stamp}"):
        entries = look(permit.directory)
        for suffix in _REMOVAL_ORDER:
            if present(entries, final_name(permit.stamp, suffix)):
                files.remove_published(permit, final_name(permit.stamp, suffix))
                files.sync_directory(permit.directory)


def remove_leftovers(files: NasFiles, directory: Path, uuid: str) -> list[str]:
    """Finish removals that a crash interrupted.

    They left sidecars of the VM `uuid` without an `.ova`, and an older program screenshots. Call it
    under a claim on the VM when no intent to publish or to move is open. Returns the stamps. Raises
    `NasError`.
    """
    half = [
        copy.stamp
        for copy in catalogue.read(directory, uuid).copies
        if copy.ours and not copy.present
    ]
    given = [permit for stamp in half if (permit := permits.leftover(directory, uuid, stamp))]
    for permit in given:
        remove_copy(files, permit)
    screenshots.remove_unneeded(files, directory)
    return [permit.stamp for permit in given]


def _by_rule(copies: list[Copy], rules: Rules) -> dict[str, list[str]]:
    counted = chronology.newest_first(
        copy for copy in copies if copy.good and not (copy.pinned or copy.holds)
    )
    moments = [copy.sidecar.moment if copy.sidecar else None for copy in counted]
    found = zip(counted, reasons_of(moments, rules), strict=True)
    return {copy.stamp: [] for copy in copies} | {copy.stamp: each for copy, each in found}


def reasons_of(newest_first: Sequence[datetime | None], rules: Rules) -> list[list[str]]:
    """The rules that keep copies which were begun at these moments: none of them, it goes."""
    reasons: list[list[str]] = [
        ["last"] if number < rules.keep_last else [] for number in range(len(newest_first))
    ]
    for rule, count, period in _periods(rules):
        for key, number in list(_newest_of_each(newest_first, period).items())[:count]:
            reasons[number].append(f"{rule} {key}")
    return reasons


def _periods(rules: Rules) -> list[tuple[str, int, str]]:
    return [
        ("daily", rules.keep_daily, "%Y-%m-%d"),
        ("weekly", rules.keep_weekly, "%G-W%V"),
        ("monthly", rules.keep_monthly, "%Y-%m"),
        ("yearly", rules.keep_yearly, "%Y"),
    ]


def _newest_of_each(newest_first: Iterable[datetime | None], period: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, moment in enumerate(newest_first):
        if moment:
            found.setdefault(moment.strftime(period), number)
    return found
