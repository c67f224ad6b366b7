"""Which grains of a copy are read back before it counts."""

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ova.grain_columns import GrainColumns
from shared.ova.parts import Stretch
from shared.ova.parts_check import CopiedGrains


def stretch(start: int, lengths: list[int], first: int) -> Stretch:
    starts = tuple(start + sum(lengths[:at]) for at in range(len(lengths) + 1))
    numbers = tuple(range(first, first + len(lengths)))
    digests = tuple(bytes([number % 256]) for number in numbers)
    return Stretch(0, starts, GrainColumns(numbers, starts[:-1], tuple(lengths), digests))


#: Stretches by the gap before each and the lengths of their grains; then ranges in the same way.
stretches = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(1, 9), min_size=1, max_size=9)), max_size=5
)
ranges = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), max_size=9)


@given(stretches, ranges, st.integers(0, 7), st.integers(1, 60))
def test_all_that_was_sent_is_read_and_each_nth_grain_of_what_was_copied_and_heads_of_ranges(
    made: list[tuple[int, list[int]]], steps: list[tuple[int, int]], left: int, grains: int
) -> None:
    """As by looking at one grain after the other."""
    at, copied = 0, []
    for gap, length in steps:
        copied.append((at + gap, length))
        at += gap + length
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "randbelow", lambda every: left % every)
        taken = CopiedGrains(copied, grains)
    every = max(1, grains // 8)
    expected, found = [], []
    countdown, at, number = left % every, 0, 0
    for gap, lengths in made:
        part = stretch(at + gap, lengths, number)
        at, number = part.starts[-1], number + len(lengths)
        found += [(segment.grain, whole) for segment, whole in taken.looked_at(part)]
        for segment in part.segments(0, len(lengths)):
            within = [s for s, n in copied if s <= segment.start and segment.end <= s + n]
            countdown -= bool(within)
            if not within or countdown < 0:
                expected.append((segment.grain, True))
                countdown = every - 1 if within else countdown
            elif segment.start in within:
                expected.append((segment.grain, False))
    assert found == expected
