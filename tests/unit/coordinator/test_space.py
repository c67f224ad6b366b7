"""`vmbackup-admin space`: what a person reads of what copies take."""

import json
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from shared.copies import sidecar_files
from shared.copies.copy_files import NasFiles
from shared.copies.sidecar import Wire
from shared.host.clock import SystemClock
from shared.reports import space_history
from shared.reports.space_taken import bytes_together
from shared.state.sessions.worker_ends import space_note
from tests.support.copies import put_copy
from tests.support.file_systems import mounted
from tests.unit.coordinator.conftest import Operator

STAMPS = [f"202611{day:02}T203800Z-{day}" for day in (20, 21, 22, 23)]


@pytest.fixture
def web(site_with_database: Operator) -> Operator:
    operator = site_with_database
    operator.add_vms("web", "bare")
    for stamp in STAMPS:
        put_copy(operator.nas / "web", stamp, b"x" * 9000)
    return operator


def note(operator: Operator, *free: float) -> None:
    """What this host noted, one a day, in GiB."""
    now = SystemClock().now()
    rows = [
        [f"{now - timedelta(days=len(free) - 1 - day):%Y-%m-%dT%H:%M:%SZ}", 1 << 60, each * 2**30]
        for day, each in enumerate(free)
    ]
    place = space_note(operator.configuration.host.state_directory, operator.nas)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"samples": [*rows, "nonsense", [1, 2, 3]]}))


def test_what_is_taken_and_that_nothing_is_foretold_without_history(web: Operator) -> None:
    said = web.admin("space").stdout
    assert said.splitlines()[1].split()[:3] == ["web", "alpha", "4"]
    assert "bare" not in said
    assert "When it is full is not known: there is too little history (0 of at least 7" in said
    found = web.json("space")
    (row,) = found["vms"]
    assert row["taken"] == row["taken_least"] >= row["size"] > 4 * 9000
    assert found["growth"] is None


def test_a_vm_that_is_not_counted_is_named_for_programs_too(web: Operator) -> None:
    directory = web.nas / web.record("web").directory
    directory.rename(web.nas / "elsewhere")
    directory.write_bytes(b"no directory")
    found = web.json("space")
    assert (found["vms"], [said[:18] for said in found["warnings"]]) == ([], ["web is not counted"])


def test_when_it_is_full(web: Operator) -> None:
    note(web, *range(110, 100, -1))
    said = web.admin("space").stdout
    assert "It fills by +7.0 GiB a week (10 looks in 9 days)" in said
    assert web.json("space")["growth"]["looks"] == 10


def test_where_the_nas_does_not_tell_what_is_shared_it_is_between_two_bounds(
    web: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = web.nas / "web"
    described = sidecar_files.read(directory, STAMPS[-1])
    shared = replace(described, wire=Wire(sent=1000, copied=8000))
    sidecar_files.replace(NasFiles(), directory, shared, 99)

    def no_answer(_descriptor: int) -> None:
        raise OSError(95, "not supported")

    monkeypatch.setattr("shared.frozen.extents.read_extents", no_answer)
    (row,) = web.json("space")["vms"]
    assert row["taken"] is None
    assert row["taken_most"] - row["taken_least"] == 8000
    said = web.admin("space").stdout
    assert "the NAS does not tell how many of them" in said


def test_what_another_rule_would_cost(web: Operator) -> None:
    web.settings["backup"] = {"keep_last": 2, "keep_daily": 7}
    web.configure()
    said = web.admin("space", "--if-keep-daily", "14").stdout
    assert "With keep_daily = 14 they would in the end take +" in said
    assert "+7 copies" in said
    (row,) = web.json("space", "web", "--if-keep-daily", "14")["vms"]
    assert row["would_be"]["copies"] == 7
    assert row["would_be"]["every_days"] == 1
    assert web.admin("space", "--if-keep-last", "0").exit_code == 2


def test_a_vm_that_is_not_there_and_an_archive_that_is_away(web: Operator) -> None:
    assert "did you mean web" in web.admin("space", "wep").stderr
    assert web.admin("archive", "web").exit_code == 0
    assert web.json("space")["vms"][0]["archived"] > 0
    (web.nas / "archive").rename(web.nas / "elsewhere")
    away = web.admin("space")
    assert away.exit_code == 0
    assert "web is not counted" in away.stderr


def test_the_database_worker_notes_once_a_day(web: Operator, tmp_path: Path) -> None:
    site = web.site()
    for _ in range(3):
        space_history.note(site)
    (sample,) = space_history.read(site)
    assert sample.free == site.nas.free
    note(web, 5, 6)
    space_history.note(site)
    assert len(space_history.read(site)) == 2


@pytest.mark.broad
def test_shared_blocks_are_counted_once_where_the_file_system_tells(tmp_path: Path) -> None:
    """A real XFS: two copies of 4 MiB, of which the second one took 3 MiB over by reflink."""
    with mounted("xfs", tmp_path) as place:
        first, second = place / "1.ova", place / "2.ova"
        first.write_bytes(b"x" * (4 << 20))
        subprocess.run(["cp", "--reflink=always", first, second], check=True)
        with second.open("r+b") as file:
            file.write(b"y" * (1 << 20))
        assert bytes_together([first]) == 4 << 20
        assert bytes_together([first, second]) == 5 << 20
    unknown = tmp_path / "tmpfs-has-no-fiemap"
    assert bytes_together([unknown]) is None
