"""For how long a VM is left alone that was stopped for a backup in vain."""

from datetime import UTC, datetime, timedelta

import pytest

from shared.host.clock import timestamp
from shared.state.records import Power
from shared.state.rules import backup, outages
from tests.unit.state.builders import OWN, WHEN, claimed, contents, copy, only, vm

NOW = datetime(2026, 11, 29, 3, 0, tzinfo=UTC)


def test_each_pause_is_twice_as_long_up_to_a_day() -> None:
    minutes = [outages.pause(failed) / timedelta(minutes=1) for failed in (1, 2, 3, 4, 7, 8, 100)]
    assert minutes == [15, 30, 60, 120, 960, 1440, 1440]


@pytest.mark.parametrize(
    ("until", "waits"),
    [
        (NOW + timedelta(minutes=1), True),
        (NOW, False),
        (NOW + timedelta(days=1), True),
        (NOW + timedelta(days=2), False),
    ],
)
def test_a_time_that_has_passed_or_that_no_right_clock_wrote_is_over(
    until: datetime, waits: bool
) -> None:
    record = vm("web01", outages_failed=1, next_outage=timestamp(until))
    assert outages.waits_until(record, NOW) == (timestamp(until) if waits else "")


@pytest.mark.parametrize("stored", ["", "soon"])
def test_what_is_no_time_keeps_nobody_waiting(stored: str) -> None:
    assert outages.waits_until(vm("web01", next_outage=stored), NOW) == ""


@pytest.mark.parametrize(("method", "counts"), [("savestate", 1), ("shutdown", 1), ("live", 0)])
def test_only_a_backup_that_stopped_the_vm_counts_however_it_ends(method: str, counts: int) -> None:
    begun = backup.touch(contents(claimed()), "web01", OWN, Power(method, "running", 1))  # type: ignore[arg-type]
    undone = backup.untouched(begun, "web01", OWN)
    ends = [
        backup.failed(undone, "web01", OWN, "it failed", WHEN),
        backup.found_running(undone, "web01", OWN, WHEN),
        backup.postponed(undone, "web01", OWN, "later", WHEN),
    ]
    assert [only(end).outages_failed for end in ends] == [counts] * 3
    assert {only(end).next_outage for end in ends} == {"2026-11-22T20:53:00Z" if counts else ""}


def test_a_copy_forgets_all_of_it() -> None:
    begun = backup.touch(
        contents(claimed(outages_failed=3, next_outage=WHEN)),
        "web01",
        OWN,
        Power("savestate", "running", 1),
    )
    after = only(backup.published(backup.intend(begun, "web01", OWN, copy()), "web01", OWN))
    assert (after.outages_failed, after.next_outage) == (0, "")
