"""Columns of grains are cut and found as the grains one by one would be."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from shared.ova.grain_columns import GrainColumns, GrainCursor

Row = tuple[int, int, int, bytes]


def columns(rows: list[Row]) -> GrainColumns:
    return GrainColumns._make(zip(*rows, strict=True)) if rows else GrainColumns()


def rows_of(found: GrainColumns) -> list[Row]:
    return list(zip(*found, strict=True))


def made(steps: list[tuple[int, int, int]]) -> list[Row]:
    """Grains, each so many numbers and sectors behind the one before, of such lengths."""
    rows: list[Row] = []
    number = sector = 0
    for gap, space, length in steps:
        number, sector = number + gap, sector + space
        rows.append((number, sector, length, bytes([number])))
        sector += length
    return rows


steps = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from([0, 0, 0, 2]), st.integers(1, 9)), max_size=40
)


@given(steps)
def test_runs_are_all_of_it_and_break_where_a_number_or_a_sector_is_missing(
    given_steps: list[tuple[int, int, int]],
) -> None:
    rows = made(given_steps)
    found = [rows_of(run) for run in columns(rows).runs()]
    assert [row for run in found for row in run] == rows
    starts = {run[0][0] for run in found}
    for before, after in itertools.pairwise(rows):
        follows = (before[0] + 1, before[1] + before[2]) == after[:2]
        assert follows == (after[0] not in starts)


@given(steps, st.integers(1, 7), st.lists(st.integers(0, 130), max_size=8))
def test_what_lies_between_two_numbers_is_found_whatever_was_read_at_once(
    given_steps: list[tuple[int, int, int]], at_once: int, bounds: list[int]
) -> None:
    rows = made(given_steps)
    pieces = (columns(rows[at : at + at_once]) for at in range(0, len(rows), at_once))
    cursor = GrainCursor(pieces)
    ordered = sorted(bounds)
    for first, end in itertools.pairwise(ordered):
        found = rows_of(cursor.between(first, end))
        assert found == [row for row in rows if first <= row[0] < end]


def test_some_of_them_and_all_of_them_further_on() -> None:
    rows = made([(1, 0, 2), (1, 5, 3), (2, 0, 4)])
    some = columns(rows).only([False, True, True])
    assert rows_of(some) == rows[1:]
    assert some.moved(-7).sectors == (0, 3)
    assert rows_of(columns(rows).part(0, 1)) == rows[:1]
