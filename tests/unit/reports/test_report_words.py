"""The words of a report: what is counted as what, what is due, and units as they are written."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from shared.reports import report_text
from shared.reports.happenings import Happening
from shared.reports.report import CopyTraffic, PeriodReport, VmNews, due_next
from shared.state.records import CopyRecord, VmRecord
from shared.state.states import State
from shared.tasks.judgement import Level, Verdict

WHEN = "2026-11-29T20:40:00Z"
BARE = VmRecord("web", "web", "u", "alpha", "web", State.BACKUP_NECESSARY, WHEN)
COPY = CopyRecord("20261129T203800Z-17", 17, 3 << 30, "0" * 64, WHEN, {})
#: All that is asked of a policy here.
POLICY: Any = SimpleNamespace(verify_days=30, running="defer", window="", running_hours=24)


def report(*kinds: str) -> PeriodReport:
    happened = tuple(Happening(WHEN, "alpha", "web", kind, kind) for kind in kinds)
    vm = VmNews("web", "alpha", None, happened, CopyTraffic(read=215_050_240))
    moment = datetime(2026, 11, 29, tzinfo=UTC)
    return PeriodReport(
        moment, moment, Level.OK, Verdict("NAS", Level.OK, "ok", "is there"), (), (vm,)
    )


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("removed",), "1 removed"),
        (("damaged", "lost"), "1 damaged"),
        (("vanished",), "1 gone from the NAS"),
    ],
)
def test_a_copy_is_counted_once_and_as_what_became_of_it(
    kinds: tuple[str, ...], expected: str
) -> None:
    assert report_text.summary(report(*kinds)) == expected


def test_a_sentence_keeps_its_units_and_names() -> None:
    said = report_text.lines(report("vanished"))
    assert said[1].endswith(" 1 gone from the NAS.")
    assert said[2] == "205.1 MiB read."
    assert report_text.lines(report())[1].endswith(" Nothing was backed up.")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (BARE, ["its first backup is due"]),
        (replace(BARE, verified=WHEN), ["its backup is due"]),
        (replace(BARE, damaged=(COPY.stamp,)), ["its backup is due"]),
        (
            replace(BARE, verified=WHEN, last_copy=COPY),
            ["its backup is due", "a copy of it is read in full again on 2026-12-29"],
        ),
    ],
)
def test_what_is_due_fits_the_copies_that_a_vm_has_and_had(
    record: VmRecord, expected: list[str]
) -> None:
    assert list(due_next(record, POLICY)) == expected
