"""Times that were stored, compared with now: what lies ahead says nothing, and silences nothing."""

from datetime import UTC, datetime, timedelta

import pytest

from shared.host.clock import TOLERANCE, age, is_ahead, is_over, timestamp

NOW = datetime(2026, 11, 29, 3, 0, tzinfo=UTC)


def at(**after: float) -> str:
    return timestamp(NOW + timedelta(**after))


@pytest.mark.parametrize(
    "stamp", ["", None, "never", "20380119T031408Z", at(minutes=6), "2038-01-19T03:14:08Z"]
)
def test_a_time_that_says_nothing_is_over(stamp: str | None) -> None:
    assert age(NOW, stamp) is None
    assert is_over(NOW, stamp, 1e300)


def test_an_hour_is_over_after_an_hour() -> None:
    assert not is_over(NOW, at(minutes=-59), 3600)
    assert is_over(NOW, at(minutes=-60), 3600)


def test_clocks_of_hosts_may_be_some_minutes_apart() -> None:
    assert age(NOW, timestamp(NOW + TOLERANCE)) == timedelta()
    assert not is_over(NOW, timestamp(NOW + TOLERANCE), 1)
    assert not is_ahead(NOW, timestamp(NOW + TOLERANCE))


def test_what_is_no_time_is_not_ahead() -> None:
    assert [
        stamp for stamp in ("", "never", at(hours=-1), at(hours=1)) if is_ahead(NOW, stamp)
    ] == [at(hours=1)]
