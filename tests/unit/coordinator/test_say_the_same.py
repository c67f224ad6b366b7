"""One table of situations: whatever tells people how a VM stands says the same of it.

Each teller stands in `TELLERS` and answers, by VM, a level and all kinds that it says. Whoever adds
one (a page, a bot) adds it there.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import pytest

from shared.state.contents import Contents
from shared.state.records import Power, RehearsalRecord
from shared.state.states import State
from tests.unit.coordinator.conftest import WHEN, Operator, copy
from tests.unit.coordinator.test_check import HOUR, look

Said = dict[str, tuple[str, frozenset[str]]]
LEVELS: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
STAMP: Final = "20261122T203800Z-17"
USED_LONG_AGO: Final = "used-long-ago"
_SAMPLE: Final = re.compile(
    r'vmbackup_vm_(level|verdict)\{host="[^"]*"(?:,kind="([^"]*)")?,vm="([^"]*)"\} (\S+)'
)


def _row(row: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
    return row["level"], frozenset(one["kind"] for one in (row, *row["also"]))


def by_check(operator: Operator) -> Said:
    rows = json.loads(operator.admin("check", "--json").stdout)["vms"]
    return {row["name"]: _row(row) for row in rows}


def by_status(operator: Operator) -> Said:
    return {row["name"]: _row(row["verdict"]) for row in operator.json("status")["vms"]}


def by_report(operator: Operator) -> Said:
    rows = operator.json("report")["vms"]
    return {row["vm"]: _row(row["verdict"]) for row in rows if row["verdict"]}


def by_metrics(operator: Operator) -> Said:
    levels: dict[str, str] = {}
    kinds: dict[str, set[str]] = {}
    for which, kind, vm, value in _SAMPLE.findall(operator.admin("metrics").stdout):
        if which == "level":
            levels[vm] = LEVELS[int(float(value))]
        else:
            kinds.setdefault(vm, set()).add(kind)
    return {vm: (level, frozenset(kinds[vm])) for vm, level in levels.items()}


#: `check` first: it is the judgement itself.
TELLERS: Final[Mapping[str, Callable[[Operator], Said]]] = {
    "check": by_check,
    "status": by_status,
    "report": by_report,
    "metrics": by_metrics,
}


#: What is so of a VM's record, and the level and the kinds that follow. Each is a VM of its own.
SITUATIONS: Final[Mapping[str, tuple[dict[str, Any], str, set[str]]]] = {
    "well": ({}, "OK", {"copied"}),
    "runs": ({"status": State.RUNNING}, "OK", {"running"}),
    "archived": ({"status": State.ARCHIVED}, "OK", {"archived"}),
    "left-out": ({"left_out": "policy"}, "OK", {"left-out"}),
    "waits": ({"status": State.BACKUP_NECESSARY, "waiting": "waits for room"}, "OK", {"waiting"}),
    "fails": (
        {"status": State.BACKUP_NECESSARY, "failures": 2, "last_error": "no"},
        "WARNING",
        {"failing"},
    ),
    USED_LONG_AGO: ({"status": State.BACKUP_NECESSARY}, "CRITICAL", {"overdue"}),
    "damaged": (
        {"damaged": (STAMP,), "order_unknown": ("1", "2")},
        "CRITICAL",
        {"damaged", "disputed"},
    ),
    "twice": ({"also_on": "beta"}, "WARNING", {"twice"}),
    "missing": ({"missing_since": WHEN}, "WARNING", {"gone"}),
    "begun": (
        {"power": Power("savestate", "running", 17, since=WHEN), "leftovers": True},
        "WARNING",
        {"unfinished"},
    ),
    "unread": ({"verified": "2020-01-01T00:00:00Z"}, "WARNING", {"unverified"}),
    "unrestorable": (
        {"rehearsed": RehearsalRecord(STAMP, WHEN, "beta", "it did nothing")},
        "WARNING",
        {"unrestorable"},
    ),
}


@pytest.fixture
def all_of_them(site_with_database: Operator) -> Operator:
    """A VM for each situation; their host looks."""
    operator = site_with_database
    operator.add_vms(*SITUATIONS)
    good = {"status": State.CLEAN, "last_copy": copy(), "verified": WHEN}

    def fill(contents: Contents) -> Contents:
        for key, (values, _, _) in SITUATIONS.items():
            contents = contents.with_vm(replace(contents.vms[key], **{**good, **values}))
        return contents

    operator.commit(fill)
    look(operator, USED_LONG_AGO, unchanged=False)
    look(operator, *(key for key in SITUATIONS if key != USED_LONG_AGO))
    return operator


def test_all_tellers_say_the_same_in_each_situation(all_of_them: Operator) -> None:
    said = {name: tell(all_of_them) for name, tell in TELLERS.items()}
    for key, (_, level, kinds) in SITUATIONS.items():
        assert said["check"][key][0] == level, key
        assert kinds <= said["check"][key][1], key
    for name, told in said.items():
        assert told == said["check"], f"{name} contradicts check"


def test_the_page_says_the_same_in_words(all_of_them: Operator) -> None:
    """It has no kinds: its level and all of its reasons are those of `check`."""
    judged = json.loads(all_of_them.admin("check", "--json").stdout)["vms"]
    expected = {
        row["name"]: (row["level"], "; also ".join(one["reason"] for one in (row, *row["also"])))
        for row in judged
    }
    shown = all_of_them.json("page")["page"]["vms"]
    assert {row["name"]: (row["level"], row["reason"]) for row in shown} == expected


def test_what_people_read_has_the_reasons(all_of_them: Operator) -> None:
    """Of all that is not well, in the words of the report and of `status --problems`."""
    rows = json.loads(all_of_them.admin("check", "--json").stdout)["vms"]
    wrong = {row["name"]: row["reason"] for row in rows if row["level"] != "OK"}
    report = all_of_them.admin("report").stdout
    problems = all_of_them.admin("status", "--problems").stdout
    shown = {line.split()[0] for line in problems.splitlines() if " alpha " in line}
    assert shown == set(wrong)
    for key, reason in wrong.items():
        assert f"{key} (alpha): " in report
        assert reason in report


def test_when_nobody_looks_all_tellers_say_so(all_of_them: Operator) -> None:
    look(all_of_them, *SITUATIONS, ago=40 * 24 * HOUR)
    said = {name: tell(all_of_them) for name, tell in TELLERS.items()}
    assert "unlooked" in said["check"]["well"][1]
    assert all(told == said["check"] for told in said.values())
