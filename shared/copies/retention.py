"""Which copies are kept: a pure decision, and its execution, which never leaves a VM without its newest good copy."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.copies import catalogue
from shared.copies.catalogue import Copy
from shared.copies.files import NasFiles, look, look_twice, present
from shared.copies.names import SIDES, Suffix, final_name, parse_final, parse_partial
from shared.copies.reporting import reported

#: The `.ova` first: from then on the copy does not count, and what a crash leaves is a sidecar alone: small, worth nothing, and
#: removed by the next run. The other way round a crash would leave a large file of which nobody knows what it is. The sidecar goes last,
#: so that until the end it is known which copy was being removed.
_REMOVAL_ORDER: Final[tuple[Suffix, ...]] = ("ova", *SIDES, "index", "sha256", "json")


@dataclass(frozen=True, slots=True)
class Rules:
    """How many copies are kept: the newest ones, and the newest of each of so many days, weeks, months and years that have one (UTC)."""

    keep_last: int = 2
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0

    def __post_init__(self) -> None:
        if self.keep_last < 1 or min(self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly) < 0:
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


def select(copies: Iterable[Copy], rules: Rules) -> list[Decision]:
    """Decides for each copy, newest first (by claim number; the day is that on which the copy was begun).

    Only good copies count, and only good copies go: one that is damaged or incomplete stays until a person has looked at it. Those that
    an operator has pinned stay and use up no rule's number. The newest good copy stays, whatever the rules say.
    """
    ordered = sorted(copies, key=lambda copy: (copy.claim, copy.stamp), reverse=True)
    counted = [copy for copy in ordered if copy.good and not copy.pinned]
    reasons: dict[str, list[str]] = {copy.stamp: [] for copy in ordered}
    for copy in counted[: rules.keep_last]:
        reasons[copy.stamp].append("last")
    for rule, count, period in _periods(rules):
        for key, copy in list(_newest_of_each(counted, period).items())[:count]:
            reasons[copy.stamp].append(f"{rule} {key}")
    for copy in ordered:
        if copy.pinned:
            reasons[copy.stamp].append("pinned")
        if not copy.good:
            reasons[copy.stamp].append(f"does not count: {copy.problem}")
    newest = next((copy for copy in ordered if copy.good), None)
    if newest:
        reasons[newest.stamp].insert(0, "newest good copy")
    return [Decision(copy, tuple(reasons[copy.stamp])) for copy in ordered]


def apply(files: NasFiles, directory: Path, rules: Rules, *, check: Callable[[], None] = lambda: None) -> list[str]:
    """Removes the copies that no rule keeps, oldest first, and what an earlier run left half removed. Returns the stamps.

    Call it under a claim on the VM; `check` is called before each removal and raises when that is lost. Before each, the directory is
    read again: a copy goes only while a newer good one is there, and unless somebody pinned it meanwhile. May be repeated after a crash.
    Raises `NasError`.
    """
    removed = remove_leftovers(files, directory)
    for decision in reversed(select(catalogue.read(directory).copies, rules)):
        if decision.keep:
            continue
        check()
        found = catalogue.read(directory)
        newest, copy = found.latest_good, found.find(decision.copy.stamp)
        if newest and newest.claim > decision.copy.claim and copy and not copy.pinned:
            remove_copy(files, directory, decision.copy.stamp)
            removed.append(decision.copy.stamp)
    return removed


def remove_copy(files: NasFiles, directory: Path, stamp: str) -> None:
    """Removes the files of one copy, the `.ova` first. What is gone already is no error. Raises `NasError`."""
    with reported(f"remove the copy {stamp}"):
        entries = look(directory)
        for suffix in _REMOVAL_ORDER:
            if present(entries, final_name(stamp, suffix)):
                files.remove(directory, final_name(stamp, suffix))
                files.sync_directory(directory)


def remove_leftovers(files: NasFiles, directory: Path) -> list[str]:
    """Finishes removals that a crash interrupted: sidecars without an `.ova`, unless a partial file says that one is being published.

    Call it under a claim on the VM when no intent to publish or to move is open. Returns the stamps. Raises `NasError`.
    """
    with reported(f"tidy {directory}"):
        entries = look_twice(directory)
    unfinished = {partial.stamp for name in entries if (partial := parse_partial(name))}
    finals = {final[0] for name, entry in entries.items() if entry.is_file and (final := parse_final(name))}
    stamps = sorted(stamp for stamp in finals - unfinished if final_name(stamp, "ova") not in entries)
    for stamp in stamps:
        remove_copy(files, directory, stamp)
    return stamps


def _periods(rules: Rules) -> list[tuple[str, int, str]]:
    return [
        ("daily", rules.keep_daily, "%Y-%m-%d"),
        ("weekly", rules.keep_weekly, "%G-W%V"),
        ("monthly", rules.keep_monthly, "%Y-%m"),
        ("yearly", rules.keep_yearly, "%Y"),
    ]


def _newest_of_each(newest_first: Iterable[Copy], period: str) -> dict[str, Copy]:
    found: dict[str, Copy] = {}
    for copy in newest_first:
        moment = copy.sidecar.moment if copy.sidecar else None
        if moment:
            found.setdefault(moment.strftime(period), copy)
    return found
