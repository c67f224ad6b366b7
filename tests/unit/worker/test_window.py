"""The hours in which exports start."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import copies as make
from worker.backup.window import expected_seconds, judge

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("window", "moment", "open_now"),
    [
        ("", "2026-11-22T12:00", True),
        ("08:00-08:00", "2026-11-22T07:59", True),
        ("08:00-17:00", "2026-11-22T08:00", True),
        ("08:00-17:00", "2026-11-22T16:59:59", True),
        ("08:00-17:00", "2026-11-22T17:00", False),
        ("08:00-17:00", "2026-11-22T07:59:59", False),
        ("22:00-06:00", "2026-11-22T22:00", True),
        ("22:00-06:00", "2026-11-22T23:59:59", True),
        ("22:00-06:00", "2026-11-23T00:00", True),
        ("22:00-06:00", "2026-11-23T05:59:59", True),
        ("22:00-06:00", "2026-11-23T06:00", False),
        ("22:00-06:00", "2026-11-22T21:59:59", False),
        ("22:00-00:00", "2026-11-22T23:30", True),
        ("22:00-00:00", "2026-11-23T00:00", False),
        ("00:00-06:00", "2026-11-23T00:00", True),
    ],
)
def test_open_and_closed(window: str, moment: str, open_now: bool) -> None:
    verdict = judge(window, at(moment), zone=BERLIN)
    assert (verdict.reason == "") == open_now
    assert open_now or verdict.reason == f"waits for its window {window}"
    assert not verdict.never


def test_the_hours_are_local_whatever_zone_the_time_comes_in() -> None:
    assert (
        judge("22:00-06:00", datetime(2026, 11, 22, 21, 30, tzinfo=UTC), zone=BERLIN).reason == ""
    )
    assert judge("22:00-06:00", datetime(2026, 11, 22, 20, 30, tzinfo=UTC), zone=BERLIN).reason
    assert judge("22:00-06:00", datetime(2026, 7, 22, 20, 30, tzinfo=UTC), zone=BERLIN).reason == ""


@pytest.mark.parametrize(
    ("moment", "seconds", "reason", "never"),
    [
        ("2026-11-22T22:00", 8 * HOUR, "", False),
        (
            "2026-11-22T22:01",
            8 * HOUR,
            "its export takes about 8.0 h, too long for what is left",
            False,
        ),
        ("2026-11-23T05:30", 30 * 60, "", False),
        (
            "2026-11-23T05:30",
            31 * 60,
            "its export takes about 31 min, too long for what is left",
            False,
        ),
        ("2026-11-22T22:00", 8 * HOUR + 1, "longer than its whole window", True),
        ("2026-11-22T12:00", 9 * HOUR, "waits for its window", False),
    ],
)
def test_an_export_that_would_overrun_does_not_start(
    moment: str, seconds: float, reason: str, never: bool
) -> None:
    verdict = judge("22:00-06:00", at(moment), seconds, BERLIN)
    assert (reason in verdict.reason, bool(reason) == bool(verdict.reason), verdict.never) == (
        True,
        True,
        never,
    )


def test_the_night_on_which_clocks_change_is_as_long_as_it_is() -> None:
    begin = at("2026-10-24T22:00")  # nine hours until six o'clock
    assert judge("22:00-06:00", begin, 9 * HOUR, BERLIN).reason == ""
    begin = at("2026-03-28T22:00")  # seven
    assert judge("22:00-06:00", begin, 7 * HOUR, BERLIN).reason == ""
    assert judge("22:00-06:00", begin, 7 * HOUR + 1, BERLIN).never


@given(
    st.times(),
    st.times(),
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001
    st.floats(0, 40),
)
def test_what_starts_ends_within_the_window(first, last, moment, hours) -> None:
    window = f"{first:%H:%M}-{last:%H:%M}"
    now = moment.replace(tzinfo=UTC)
    if window[:5] != window[6:] and not judge(window, now, hours * HOUR, UTC).reason:
        for share in (0, 0.5, 0.999):
            assert not judge(window, now + timedelta(hours=hours * share), zone=UTC).reason


def test_the_reason_stays_the_same_while_a_vm_waits() -> None:
    reasons = {
        judge("22:00-06:00", at("2026-11-23T05:00") + timedelta(minutes=n), 2 * HOUR, BERLIN).reason
        for n in range(60)
    }
    assert len(reasons) == 1


@pytest.mark.parametrize(
    ("then", "now", "expected"), [(100, 200, 120.0), (100, 50, 30.0), (0, 50, 60.0)]
)
def test_a_larger_disk_takes_longer(then: int, now: int, expected: float) -> None:
    assert (
        expected_seconds(now, make.sidecar(b"", source_bytes=then, duration_seconds=60.0))
        == expected
    )
    assert expected_seconds(now, None) is None
