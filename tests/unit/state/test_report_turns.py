"""When a report is due, and to whom it falls."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.state.contents import Contents
from shared.state.host_records import NodeRecord, SessionRecord
from shared.state.records import Told
from shared.state.rules import report_turns
from shared.state.rules.report_turns import Every, ReportTurn

MONDAY = datetime(2026, 11, 30, 7, 0, tzinfo=UTC)


def contents(told: Told, *sessions: str) -> Contents:
    nodes = {"a": NodeRecord("a", "m"), "b": NodeRecord("b", "n", reports={"mail": told})}
    rows = {name: SessionRecord(name, 1, 1, "live", "a") for name in sessions}
    return Contents(nodes=nodes, sessions=rows)


TURN = ReportTurn("mail", "daily", "a", "2026-11-30T08:00:00Z", MONDAY)


@pytest.mark.parametrize(
    ("now", "every", "expected"),
    [
        (MONDAY + timedelta(hours=1), "daily", MONDAY),
        (MONDAY - timedelta(hours=1), "daily", MONDAY - timedelta(days=1)),
        (MONDAY + timedelta(days=6), "weekly", MONDAY),
        (MONDAY - timedelta(minutes=1), "weekly", MONDAY - timedelta(days=7)),
    ],
)
def test_since_when_one_is_due(now: datetime, every: Every, expected: datetime) -> None:
    assert report_turns.begun(now, every, 7) == expected


@pytest.mark.parametrize(
    ("told", "due"),
    [
        (Told(), True),
        (Told(told="2026-11-29T07:10:00Z"), True),
        (Told(told="2026-11-30T07:10:00Z"), False),
        (Told(told="2026-11-29T21:00:00Z"), False),  # by a host in another time zone
        (Told(told="2027-11-29T21:00:00Z"), True),  # by a clock that was wrong
        (Told(session="alive"), False),
        (Told(session="dead"), True),
        (Told(failures=1, failed={"a": "2026-11-30T07:58:00Z"}), False),
        (Told(failures=1, failed={"b": "2026-11-30T07:58:00Z"}), True),
        (Told(failures=1, failed={"a": "2026-11-30T07:50:00Z"}), True),
    ],
)
def test_whether_it_is_due(told: Told, *, due: bool) -> None:
    found = contents(told, "alive")
    assert report_turns.is_due(found, TURN) is due
    claimed = report_turns.claim(found, TURN, "me")
    assert report_turns.is_claimed(claimed, "mail", "me") is due


def test_it_stays_where_it_stands_and_unknown_fields_are_kept() -> None:
    found = contents(Told(extra={"new": 1}))
    claimed = report_turns.claim(found, TURN, "me")
    done = report_turns.sent(claimed, TURN, "me")
    assert done.nodes["b"].reports["mail"] == Told(told=TURN.when, extra={"new": 1})
    assert not done.nodes["a"].reports
    assert report_turns.sent(found, TURN, "me") == found, "who did not claim it notes nothing"


def test_it_tells_from_where_the_last_one_ended() -> None:
    def since(told: str) -> str:
        return report_turns.since(contents(Told(told=told)), TURN).isoformat()

    assert since("2026-11-28T07:00:00Z") == "2026-11-28T07:00:00+00:00"
    assert since("") == "2026-11-29T08:00:00+00:00"
    assert since("2025-01-01T00:00:00Z") == "2026-10-30T08:00:00+00:00", "a month at most"


def test_without_a_host_nobody_sends() -> None:
    assert not report_turns.is_due(replace(contents(Told()), nodes={}), TURN)
