"""Silence is what was seen, not what was waited."""

from hypothesis import given
from hypothesis import strategies as some

from shared.state.sessions.deaths import Watch


def test_a_value_seen_unchanged_for_the_lease_time_is_silent() -> None:
    watch = Watch[str](30, 10)
    assert [watch.observe("a", moment) for moment in (0, 10, 20, 29, 30)] == [
        False,
        False,
        False,
        False,
        True,
    ]


def test_a_change_starts_from_zero() -> None:
    watch = Watch[str](30, 10)
    for moment in (0, 10, 20):
        watch.observe("a", moment)
    assert watch.changed("b")
    assert not watch.observe("b", 30)
    assert watch.unchanged_seconds == 0


def test_nothing_has_changed_before_the_first_look() -> None:
    watch = Watch[str | None](30, 10)
    assert not watch.changed(None)
    watch.observe(None, 0)
    assert watch.changed("a"), "a heartbeat file that appears is a change"


def test_a_gap_does_not_count() -> None:
    """The watcher was stopped for an hour, or the NAS hung: nobody saw the silence."""
    watch = Watch[str](30, 10)
    watch.observe("a", 0)
    watch.observe("a", 10)
    assert not watch.observe("a", 3610)
    assert watch.unchanged_seconds == 10
    assert watch.observe("a", 3630)


def test_a_clock_that_went_back_does_not_count() -> None:
    watch = Watch[str](30, 10)
    watch.observe("a", 100)
    watch.observe("a", 50)
    assert watch.unchanged_seconds == 0


@given(some.lists(some.tuples(some.sampled_from("ab"), some.floats(0, 50)), max_size=30))
def test_the_seconds_counted_are_never_more_than_those_that_passed_without_a_change(
    looks: list[tuple[str, float]],
) -> None:
    watch = Watch[str](30, 10)
    moment, since, before = 0.0, 0.0, ""
    for value, pause in looks:
        moment += pause
        since = moment if value != before else since
        before = value
        assert watch.observe(value, moment) == (watch.unchanged_seconds >= 30)
        assert watch.unchanged_seconds <= moment - since + 1e-6
