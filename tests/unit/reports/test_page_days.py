"""The strip of days, the forecast and the drawings of the page."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.reports.page import drawing
from shared.reports.page.days import DayMark, Past, counted, last_days, sizes, strip
from shared.reports.page.forecast import forecast
from shared.reports.space_growth import Sample
from shared.state.records import CopyRecord, VmRecord
from shared.state.sessions.host_look import HostLook
from shared.state.states import State
from shared.state.store.summary import Summary, VmSummary

NOW = 1795990400.0  # 2026-11-29 22:13:20Z
DAY = 86400.0
DAYS = last_days(NOW, 10)
RECORD = VmRecord(
    "web01", "web01", "u", "alpha", "web01", State.CLEAN, "2026-10-01T00:00:00Z",
    last_copy=CopyRecord("20261124T100000Z-1", 1, 5, "0" * 64, "2026-11-24T10:00:00Z", {}),
)  # fmt: skip
WAS = VmSummary(
    "u", "alpha", "CLEAN", stamp="20261124T100000Z-1", size=5, finished="2026-11-24T10:00:00Z"
)
BEFORE = replace(WAS, stamp="20261118T100000Z-1", finished="2026-11-18T10:00:00Z")


def look(looked: float = NOW, since: float = NOW - 5 * DAY, **unchanged: float) -> HostLook:
    return HostLook("alpha", "m", looked, looked, since, (), {}, {"u": looked}, unchanged)


def past(**changed: VmSummary | None) -> Past:
    """Ten days, all alike but those `changed`: `d3` is the fourth."""
    ends = {}
    for number, day in enumerate(DAYS):
        was = changed.get(f"d{number}", WAS if day >= "2026-11-24" else BEFORE)
        ends[day] = Summary(number, {"u": was} if was else {})
    return Past(DAYS, ends)


def marks(past: Past, look: HostLook | None, copied: tuple[str, ...] = ()) -> str:
    return "".join(strip(RECORD, look, past, copied))


def test_days_of_a_vm_that_was_copied_once() -> None:
    assert DAYS[0] == "2026-11-20"
    assert marks(past(), look()) == "----cuuuuu", "nobody knows what was before the looks began"


def test_days_before_the_looks_are_known_by_what_was_found_unchanged() -> None:
    seen = look(since=NOW, u=NOW)
    assert marks(past(), seen) == "----cuuuuu"
    assert marks(past(), look(since=NOW)) == "----c----u"


def test_nobody_looked_since() -> None:
    assert marks(past(), look(looked=NOW - 3 * DAY, since=NOW - 8 * DAY)) == "-uuucuunnn"
    assert marks(past(), None) == "----c-----", "a host that never noted a look is not known"


def test_nobody_looked_for_some_days_in_between() -> None:
    breaks = ((NOW - 8 * DAY, NOW - 6 * DAY), (NOW - 4 * DAY, NOW - 2 * DAY))
    broken = replace(look(since=NOW - 2 * DAY, u=NOW), breaks=breaks, known=NOW - 8 * DAY)
    assert marks(past(), broken) == "-unucunuuu", "though nothing had changed meanwhile"
    elsewhere = replace(WAS, node="beta")
    assert marks(past(d6=elsewhere, d7=elsewhere), replace(broken, unchanged={}))[6:8] == "--"
    failed = replace(WAS, failed=f"{DAYS[6]}T01:00:00Z")
    assert marks(past(d6=failed), broken)[6] == DayMark.FAILED


def test_a_failure_and_use_are_shown() -> None:
    failed = replace(WAS, status="BACKUP_NECESSARY", failed=f"{DAYS[7]}T01:00:00Z")
    used = replace(WAS, status="RUNNING")
    assert marks(past(d7=failed, d8=failed, d9=used), look()) == "----cuufww"


def test_a_copy_of_that_day_counts_more_than_a_failure() -> None:
    failed = replace(WAS, failed=f"{DAYS[7]}T01:00:00Z")
    assert marks(past(d7=failed), look(), (DAYS[7],))[7] == DayMark.COPIED


def test_before_it_was_found_and_while_it_is_left_out_nothing_is_said() -> None:
    left = replace(WAS, left_out=True)
    assert marks(past(d5=None, d6=left, d7=replace(WAS, status="ARCHIVED")), look())[5:8] == "---"


def test_a_host_that_worked_on_a_day_looked() -> None:
    ends = dict(past().ends)
    ends[DAYS[1]] = Summary(1, {"u": BEFORE}, {"alpha": f"{DAYS[1]}T02:00:00Z"})
    assert marks(Past(DAYS, ends), look())[:3] == "-u-"


def test_sizes_are_of_all_copies_once() -> None:
    known = {"20261124T100000Z-1": ("2026-11-24T10:00:00Z", 5), "x": (f"{DAYS[8]}T00:00:00Z", 7)}
    assert sizes(RECORD, past(), known) == [(4, 5), (8, 7)]
    assert drawing.curve([(4, 5), (8, 7)]) == "M13 6L25 2"
    assert drawing.curve([(4, 0)]) == "M13 17h4"
    assert drawing.curve([]) == ""


def test_a_strip_in_words_and_as_paths() -> None:
    found = [DayMark.UNUSED, DayMark.UNUSED, DayMark.COPIED]
    assert counted(found) == "1 copied, 2 unused"
    paths = {path.kind: path.path for path in drawing.strip_paths(found)}
    assert paths == {"unused": "M0 12h6v6h-6z", "copied": "M6 0h3v18h-3z"}


HERE = datetime.fromtimestamp(NOW, UTC)
GIB = 1 << 30


@pytest.mark.parametrize(
    ("days", "a_day", "said"),
    [
        (0, 0, "too little history (0 of at least 7 daily notes"),
        (6, GIB, "too little history (6 of at least 7 daily notes"),
        (10, 0, "it does not fill up (10 looks in 9 days)"),
        (10, -GIB, "it does not fill up"),
        (10, GIB, "it fills by 7.0 GiB a week (10 looks in 9 days): full on about 2027-01-08"),
        (10, 1 << 20, "not within 730 days"),
    ],
)
def test_a_forecast(days: int, a_day: int, said: str) -> None:
    samples = [
        Sample(HERE - timedelta(days=back), 1 << 40, 50 * GIB + a_day * back)
        for back in range(days)
    ]
    assert said in forecast(samples, 50 * GIB, 10 * GIB, HERE)


def test_what_is_full_is_not_said_to_last() -> None:
    samples = [Sample(HERE - timedelta(days=back), 1 << 40, 5 * GIB - back) for back in range(20)]
    assert forecast(samples, 5 * GIB, 10 * GIB, HERE).startswith("it is full")
