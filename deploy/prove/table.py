"""What tests did, from pytest's reports in JUnit's format, as a table."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

#: Properties that a test may record. A test that records no kills has none.
KILLS, SURVIVED = "kills", "survived"


@dataclass
class Row:
    """One scenario: a test, with all its parameters."""

    part: str
    scenario: str
    runs: int = 0
    failed: int = 0
    skipped: int = 0
    kills: int = 0
    survived: int = 0
    places: int = 0
    met: int = 0
    left: int = 0
    seconds: float = 0.0


def read(report: Path, part: str) -> Sequence[Row]:
    """The rows of a report; one that says so if there is none (the tests did not get that far)."""
    if not report.exists():
        return [Row(part, "(no report)", failed=1)]
    rows: dict[str, Row] = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        name, bracket, parameter = case.get("name", "").partition("[")
        values = _values(case)
        # a test that kills is worth a row for each of its scenarios
        scenario = (
            parameter.removesuffix("]")
            if bracket and KILLS in values
            else name.removeprefix("test_").replace("_", " ")
        )
        row = rows.setdefault(scenario, Row(part, scenario))
        skipped, failed = (
            case.find("skipped") is not None,
            case.find("failure") is not None or case.find("error") is not None,
        )
        row.runs += 0 if skipped else int(values["runs"]) or 1
        row.skipped += skipped
        row.failed += failed
        row.seconds += float(case.get("time", "0"))
        row.kills += int(values[KILLS])
        row.survived += int(values[SURVIVED])
        for number in ("places", "met", "left"):
            setattr(row, number, getattr(row, number) + int(values[number]))
    return list(rows.values())


def _values(case: ET.Element) -> defaultdict[str, float]:
    """What the test recorded. Rounds under fire are kills, too."""
    values: defaultdict[str, float] = defaultdict(float)
    for entry in case.iter("property"):
        name, value = entry.get("name", ""), entry.get("value", "")
        if name == "fire":
            values[KILLS] += 1
            values[SURVIVED] += value.endswith("|survived")
        elif name in (KILLS, SURVIVED, "places", "met", "left", "runs"):
            values[name] += float(value)
    return values


def render(rows: Iterable[Row]) -> str:
    """The table. `runs`: tests with all parameters, states searched, schedules drawn.

    `kills`: processes, hosts and the like.

    `places` of a command are those where it writes to the NAS, `met` those of them where it was
    killed, here or in a row before.
    """
    names = f"{'runs':>10}{'failed':>7}{'skipped':>8}{'kills':>7}{'survived':>9}"
    names += f"{'places':>7}{'met':>6}{'no time':>8}{'seconds':>9}"
    lines = [f"{'part':<10}{'scenario':<64}{names}"]
    total = Row("all", "")
    for row in rows:
        lines.append(_line(row))
        for name in (
            "runs",
            "failed",
            "skipped",
            "kills",
            "survived",
            "places",
            "met",
            "left",
            "seconds",
        ):
            setattr(total, name, getattr(total, name) + getattr(row, name))
    return "\n".join([*lines, _line(total)])


def _line(row: Row) -> str:
    kills = f"{row.kills:>7}{row.survived:>9}{row.places:>7}{row.met:>6}{row.left:>8}"
    tests = f"{row.runs:>10}{row.failed:>7}{row.skipped:>8}"
    return f"{row.part:<10}{row.scenario[:62]:<64}{tests}{kills}{row.seconds:>9.1f}"
