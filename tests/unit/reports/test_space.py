"""What copies take, when a NAS is full, and what other rules would cost."""

from datetime import UTC, date, datetime, timedelta

import pytest

from shared.copies.retention import Rules
from shared.reports.space_growth import CopySpace, Growth, VmSpace, cost, full_on, growth, watched
from shared.reports.space_history import Sample
from shared.reports.space_taken import length_together

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
GIB = 1 << 30


def samples(*free: float, total: int = 1000) -> list[Sample]:
    """One a day, the last one now."""
    days = len(free) - 1
    return [
        Sample(NOW - timedelta(days=days - number), total * GIB, round(each * GIB))
        for number, each in enumerate(free)
    ]


def vm(every_days: float, count: int, own: int = 10) -> VmSpace:
    copies = tuple(
        CopySpace(f"{number}", NOW - timedelta(days=number * every_days), 10 * GIB, own * GIB)
        for number in range(count)
    )
    return VmSpace("web", "alpha", copies, 0, 0)


class TestGrowth:
    def test_what_retention_frees_in_one_go_does_not_change_it_much(self) -> None:
        found = growth(samples(500, 490, 480, 470, 460, 520, 510, 500, 490, 480))
        assert found is not None
        assert (found.looks, found.days) == (10, 9)
        steady = growth(samples(*range(500, 400, -10)))
        assert steady is not None
        assert steady.per_day == 10 * GIB

    @pytest.mark.parametrize(
        "history",
        [
            [],
            samples(500),
            samples(500, 490, 480, 470, 460, 450),
            samples(500, 490)[:1] + samples(480),
            [Sample(NOW + timedelta(days=day), GIB, 0) for day in range(10)],
        ],
    )
    def test_too_little_history_says_nothing(self, history: list[Sample]) -> None:
        assert growth(watched(history, NOW).looks) is None

    def test_what_was_before_its_size_changed_does_not_count(self) -> None:
        grown = [
            Sample(NOW - timedelta(days=20 - day), 500 * GIB, (30 - day) * GIB) for day in range(10)
        ]
        seen = watched([*grown, *samples(990, 980, 970)], NOW)
        assert growth(seen.looks) is None
        changed = NOW - timedelta(days=2)
        assert (len(seen.looks), seen.changed) == (3, changed)
        assert seen.words == f", since the size of the NAS changed on {changed:%Y-%m-%d}"
        assert watched(grown, NOW).words == ""
        found = growth(watched([*grown, *samples(*range(990, 900, -10))], NOW).looks)
        assert found is not None
        assert found.per_day == 10 * GIB

    def test_a_share_whose_size_follows_what_others_write_goes_on_being_watched(self) -> None:
        days = [
            Sample(NOW - timedelta(days=9 - day), (1000 - 8 * day) * GIB, (500 - 10 * day) * GIB)
            for day in range(10)
        ]
        seen = watched(days, NOW)
        assert (len(seen.looks), seen.changed) == (10, None)
        assert growth(seen.looks) == Growth(10 * GIB, 10, 9)

    def test_what_is_longer_ago_does_not_count(self) -> None:
        old = [Sample(NOW - timedelta(days=100 + day), 1000 * GIB, day * GIB) for day in range(30)]
        assert growth(watched(old, NOW).looks) is None


@pytest.mark.parametrize(
    ("free", "reserve", "per_day", "expected"),
    [
        (100, 0, 10, date(2026, 12, 10)),
        (100, 50, 10, date(2026, 12, 5)),
        (100, 100, 10, date(2026, 11, 30)),
        (100, 0, 0, None),
        (100, 0, -1, None),
        (1000, 0, 1, None),
    ],
)
def test_when_it_is_full(free: int, reserve: int, per_day: float, expected: date | None) -> None:
    assert full_on(free * GIB, reserve * GIB, per_day * GIB, NOW) == expected


class TestCost:
    def test_of_more_days_for_a_vm_that_is_copied_each_day(self) -> None:
        found = cost(vm(1, 5, own=3), Rules(2, 7), Rules(2, 14))
        assert found is not None
        assert (found.copies, found.size) == (7, 7 * 3 * GIB)
        assert (found.every_days, found.assumed) == (1, False)

    def test_days_that_the_last_ones_cover_cost_nothing(self) -> None:
        found = cost(vm(1, 5), Rules(10), Rules(10, 5))
        assert found is not None
        assert (found.copies, found.size) == (0, 0)

    def test_of_one_that_is_copied_each_month_days_are_copies(self) -> None:
        """The newest of each of so many days that have one."""
        found = cost(vm(30, 5), Rules(2), Rules(2, 14))
        assert found is not None
        assert found.copies == 12

    def test_of_one_that_is_copied_each_hour(self) -> None:
        found = cost(vm(1 / 24, 60), Rules(2), Rules(2, 7))
        assert found is not None
        assert found.copies == 6

    def test_fewer_are_less(self) -> None:
        found = cost(vm(1, 9), Rules(2, 30), Rules(2, 7))
        assert found is not None
        assert found.copies == -23

    def test_years_are_counted(self) -> None:
        found = cost(vm(1, 9), Rules(2), Rules(2, keep_yearly=5))
        assert found is not None
        assert found.copies == 4

    @pytest.mark.parametrize("count", [1, 2])
    def test_too_few_copies_are_said_to_be_assumed(self, count: int) -> None:
        found = cost(vm(20, count), Rules(2, 7), Rules(2, 14))
        assert found is not None
        assert (found.assumed, found.every_days, found.copies) == (True, 1, 7)

    def test_without_a_copy_nothing_is_known(self) -> None:
        assert cost(vm(1, 0), Rules(), Rules(3)) is None


def test_what_several_cover_counts_once() -> None:
    assert length_together([(0, 10), (5, 15), (20, 30), (20, 25), (30, 31)]) == 26
