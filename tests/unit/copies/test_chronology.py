"""Which of two copies is newer: three signs, each of which can be wrong by itself."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.copies import chronology
from shared.copies.names import make_stamp, parse_stamp

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Seen:
    """A copy by its signs."""

    stamp: str
    created: int

    @property
    def claim(self) -> int:
        return parse_stamp(self.stamp).claim

    @property
    def moment(self) -> datetime:
        return parse_stamp(self.stamp).moment


def seen(claim: int, day: float, created: int) -> Seen:
    return Seen(make_stamp(BEGIN + timedelta(days=day), claim), created)


SIGNS = st.builds(seen, st.integers(1, 8), st.integers(0, 8), st.integers(0, 8))
COPIES = st.lists(SIGNS, max_size=9, unique_by=lambda copy: copy.stamp)


def test_a_counter_that_began_again_is_outvoted() -> None:
    old, new = seen(17, 1, 10), seen(1, 2, 20)
    assert chronology.newest_first([old, new]) == [new, old]
    assert chronology.disputed(old, new)


def test_a_wrong_clock_and_lost_times_are_outvoted() -> None:
    future, later = seen(17, 4000, 10), seen(18, 2, 20)
    assert chronology.newest_first([future, later]) == [later, future]
    first, second = seen(1, 1, 20), seen(2, 2, 10)
    assert chronology.newest_first([first, second]) == [second, first]


def test_signs_that_are_equal_or_unknown_say_nothing() -> None:
    assert chronology.signs(seen(1, 1, 5), seen(2, 1, 5)) == (-1, 0, 0)
    assert chronology.signs(seen(1, 1, 0), seen(2, 1, 5)) == (-1, 0, 0)
    assert chronology.signs(seen(999999999999999, 1, 1), seen(2, 2, 5)) == (0, -1, -1)
    assert not chronology.disputed(seen(1, 1, 5), seen(1, 1, 5))


@pytest.mark.broad
@given(COPIES, st.randoms())
def test_the_order_is_one_and_does_not_depend_on_how_copies_are_listed(
    copies: list[Seen], dice: random.Random
) -> None:
    shuffled = dice.sample(copies, len(copies))
    assert chronology.oldest_first(copies) == chronology.oldest_first(shuffled)
    assert sorted(chronology.oldest_first(copies), key=copies.index) == copies


@given(
    st.lists(
        st.builds(seen, st.integers(1, 8), st.integers(0, 8), st.integers(1, 8)),
        max_size=9,
        unique_by=lambda copy: copy.stamp,
    )
)
def test_what_is_newer_by_every_sign_comes_later(copies: list[Seen]) -> None:
    ranks = {copy.stamp: rank for rank, copy in enumerate(chronology.oldest_first(copies))}
    assert all(
        ranks[one.stamp] > ranks[other.stamp]
        for one in copies
        for other in copies
        if chronology.supersedes(one, other)
    )


@given(SIGNS, SIGNS)
def test_two_copies_are_in_order_or_disputed(one: Seen, other: Seen) -> None:
    kinds = [
        chronology.supersedes(one, other),
        chronology.supersedes(other, one),
        chronology.disputed(one, other),
        one.stamp == other.stamp,
    ]
    assert sum(kinds) == 1
    assert chronology.disputed(one, other) == chronology.disputed(other, one)
