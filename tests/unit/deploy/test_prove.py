"""The table of `make prove`."""

from pathlib import Path

from deploy.prove.__main__ import LANES, ROOT
from deploy.prove.table import read, render

REPORT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase name="test_crash[backup]" time="2.5"><properties>
<property name="kills" value="7"/><property name="survived" value="6"/>
<property name="places" value="5"/><property name="met" value="4"/><property name="left" value="3"/>
</properties><failure/></testcase>
<testcase name="test_crash[archive]" time="1"><properties>
<property name="kills" value="2"/><property name="survived" value="2"/>
</properties>
</testcase>
<testcase name="test_again_and_again" time="9"><properties>
<property name="fire" value="NAS full|parallel|3|survived"/>
<property name="fire" value="VM renamed|parallel|3|lost"/></properties></testcase>
<testcase name="test_search[one]" time="4"/>
<testcase name="test_search[two]" time="5"><skipped/></testcase>
</testsuite></testsuites>"""


def test_each_scenario_that_kills_has_a_row_and_other_tests_one_together(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT, encoding="utf-8")
    rows = {row.scenario: row for row in read(tmp_path / "report.xml", "crash")}
    assert set(rows) == {"backup", "archive", "again and again", "search"}
    assert (
        rows["backup"].kills,
        rows["backup"].survived,
        rows["backup"].failed,
        rows["backup"].left,
    ) == (7, 6, 1, 3)
    assert (rows["backup"].places, rows["backup"].met) == (5, 4)
    assert (rows["again and again"].kills, rows["again and again"].survived) == (2, 1)
    assert (rows["search"].runs, rows["search"].skipped, rows["search"].seconds) == (1, 1, 9.0)
    last = render(rows.values()).splitlines()[-1].split()
    assert last == ["all", "4", "1", "1", "11", "9", "5", "4", "3", "21.5"]


def test_tests_that_left_no_report_have_failed(tmp_path: Path) -> None:
    (row,) = read(tmp_path / "none.xml", "fire")
    assert row.failed == 1


def test_all_parts_are_there_and_share_the_hour() -> None:
    for lane in LANES:
        assert all((ROOT / path).exists() for part in lane for path in part.paths)
        assert abs(sum(part.share for part in lane) - 1) < 1e-9
