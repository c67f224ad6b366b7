"""`vmbackup-admin report`: what a person reads of the last day."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shared.host.clock import SystemClock, timestamp
from shared.state.records import Claim
from shared.state.states import State
from shared.tasks import commit_reasons
from tests.unit.coordinator.conftest import Operator, copy, uuid

HOSTILE = "<script>alert(1)</script>\x1b[2J"


@pytest.fixture
def day(site_with_database: Operator) -> Operator:
    """web was copied, db failed twice, app waits for its window, old was deleted."""
    operator = site_with_database
    operator.add_vms("web", "db", "app", "old", "idle")
    now = timestamp(SystemClock().now())
    held = Claim("s", 17, "backup", now)
    for key in ("web", "db"):
        operator.set(key, status=State.BACKUP_IN_PROGRESS, claim=held)
    done = replace(copy(size=3 << 30), finished=now)
    operator.commit(
        lambda contents: contents.with_vm(
            replace(
                contents.vms["web"],
                status=State.CLEAN,
                claim=None,
                last_copy=done,
                backed_up=now,
                verified=now,
            )
        ),
        commit_reasons.with_removed(f"web is clean: {done.stamp}", ["20261101T000000Z-3"]),
    )
    for number in (1, 2):
        operator.set(
            "db",
            status=State.BACKUP_NECESSARY,
            claim=None,
            failures=number,
            last_error="it is locked",
            last_error_at=f"2026-11-22T20:3{number}:00Z",
        )
    operator.set("app", status=State.BACKUP_NECESSARY, waiting="waits for its window, 22:00-06:00")
    operator.commit(lambda contents: contents.without_vm("old"))
    return operator


def test_each_vm_in_words(day: Operator) -> None:
    said = day.admin("report").stdout
    first = said.splitlines()[1]
    assert "1 backed up, 1 failed, 1 put off, 1 removed" in first
    assert re.search(
        r"web \(alpha\): UNKNOWN: .*nobody|web \(alpha\): UNKNOWN: it is not known", said
    )
    assert "Z  backed up: copy 20261122T203800Z-17, 3.0 GiB" in said
    assert "Z  copy 20261101T000000Z-3 removed" in said
    assert (
        "next: it is backed up again when it was used; a copy of it is read in full again" in said
    )
    assert "Z  backup failed: it is locked (2 times)" in said
    assert "not backed up: it waits for its window, 22:00-06:00" in said
    assert "next: its first backup is due: waits for its window" in said
    assert "old: its record is gone" in said


def test_the_document_has_all_of_it(day: Operator) -> None:
    found = day.json("report")
    assert found["counts"] == {"backed up": 1, "failed": 1, "put off": 1, "removed": 1}
    vms = {vm["vm"]: vm for vm in found["vms"]}
    assert set(vms) == {"web", "db", "app", "old", "idle"}
    assert [event["kind"] for event in vms["db"]["events"]] == [
        "found",
        "began",
        "failed",
        "failed",
    ]
    assert vms["old"]["verdict"] is None


def test_of_some_vms_since_a_moment(day: Operator) -> None:
    said = day.admin("report", uuid(0)).stdout
    assert "web" in said
    assert "db" not in said
    assert day.json("report", "--since", "2100-01-01")["counts"] == {}
    unknown = day.admin("report", "wep")
    assert (unknown.exit_code, "did you mean web" in unknown.stderr) == (2, True)


class Tags(HTMLParser):
    """The elements of a page, and what would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [name for name, _ in attrs if name in ("src", "href") or name[:2] == "on"]


def test_as_a_page_that_loads_nothing_and_in_which_names_are_names(
    day: Operator, tmp_path: Path
) -> None:
    day.add_vms(HOSTILE)
    target = tmp_path / "report.html"
    said = day.admin("report", "--html", str(target)).stdout
    assert said == f"wrote {target}: {target.as_uri()}\n"
    tags = Tags()
    tags.feed(target.read_text(encoding="utf-8"))
    assert not {"script", "img", "link"} & tags.tags
    assert not tags.loads
    assert "&lt;script&gt;" in target.read_text(encoding="utf-8")
    assert "\x1b" not in target.read_text(encoding="utf-8")
    refused = day.admin("report", "--html", str(tmp_path / "none" / "report.html"))
    assert (refused.exit_code, "cannot write the report" in refused.stderr) == (2, True)


def test_a_commit_that_cannot_be_read_is_counted(day: Operator) -> None:
    damaged = sorted((day.vmstate / "gen").iterdir())[3]
    path = damaged if damaged.is_file() else next(damaged.iterdir())
    path.write_bytes(path.read_bytes()[:-9])
    said = day.admin("report").stdout
    assert re.search(r"Of [12] commits it is not known what happened", said)


@pytest.mark.parametrize(
    ("setting", "value"), [("report", "hourly"), ("report_hour", 24), ("report_hour", -1)]
)
def test_settings_that_are_refused_with_their_key(
    operator: Operator, setting: str, value: object
) -> None:
    operator.settings['notify."mail"'] = {"url": "json://mail", setting: value}
    operator.configure()
    refused = operator.admin("config", "validate")
    assert refused.exit_code == 2
    assert f"notify.mail.{setting}" in refused.stderr + refused.stdout
