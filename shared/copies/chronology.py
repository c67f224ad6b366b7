"""Which of two copies of a VM is newer.

The one order by which copies are shown, restored, kept and moved. Pure.

Three signs tell. Each can be wrong by itself: the claim's number, where a database was made anew or
put back; the moment in the stamp, where the clock of a host was wrong; the order of creation on the
NAS, where the copies were copied to another one without their times. So the newer one is the one
that most signs say is newer. Where they contradict each other, the order is *disputed*, and nothing
that depends on it is done without a person.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Protocol, TypeVar

from shared.state.numbers import plausible


class Ordered(Protocol):
    """What the order needs to know of a copy."""

    @property
    def stamp(self) -> str:
        """Its name: two of one name are one copy."""

    @property
    def claim(self) -> int:
        """The number of its claim; one that is out of bounds says nothing."""

    @property
    def moment(self) -> datetime:
        """When it was begun, by its host's clock."""

    @property
    def created(self) -> int:
        """When its `.ova` was written, in nanoseconds of the NAS's clock.

        0: not known, which says nothing.
        """


T = TypeVar("T", bound=Ordered)


def signs(one: Ordered, other: Ordered) -> tuple[int, int, int]:
    """What claim number, moment and creation time say about which copy is newer.

    1 if `one` is newer, -1 if `other` is, 0 if that sign does not tell.
    """
    if one.stamp == other.stamp:
        return 0, 0, 0
    numbered = plausible(one.claim) and plausible(other.claim)
    return (
        _sign(one.claim, other.claim) if numbered else 0,
        _sign(one.moment, other.moment),
        _sign(one.created, other.created) if one.created and other.created else 0,
    )


def disputed(one: Ordered, other: Ordered) -> bool:
    """Whether two signs contradict each other about which of the two is newer."""
    return {1, -1} <= set(signs(one, other))


def supersedes(one: Ordered, other: Ordered) -> bool:
    """Whether `one` is newer than `other` by every sign that tells, and at least one does."""
    said = set(signs(one, other))
    return 1 in said and -1 not in said


def oldest_first(copies: Iterable[T]) -> list[T]:
    """All copies in order, by majority of the signs.

    Where majorities run in a circle, by how many others each is newer than. The result does not
    depend on the order in which they are given. What supersedes another one comes after it.
    """
    found = list(copies)
    beaten = {copy.stamp: sum(sum(signs(copy, other)) > 0 for other in found) for copy in found}
    return sorted(
        found,
        key=lambda copy: (
            beaten[copy.stamp],
            copy.claim if plausible(copy.claim) else 0,
            copy.stamp,
        ),
    )


def newest_first(copies: Iterable[T]) -> list[T]:
    """`oldest_first` the other way round."""
    return oldest_first(copies)[::-1]


def rivals(copy: T, others: Iterable[T]) -> list[T]:
    """Those of `others` whose order to `copy` is disputed, oldest first."""
    return oldest_first(other for other in others if disputed(copy, other))


def unknown(copies: Collection[T]) -> tuple[str, ...]:
    """The stamps of copies whose order to at least one other is disputed, oldest first."""
    return tuple(
        copy.stamp
        for copy in oldest_first(copies)
        if any(disputed(copy, other) for other in copies)
    )


def _sign(one: int | datetime, other: int | datetime) -> int:
    return (one > other) - (one < other)  # type: ignore[operator]
