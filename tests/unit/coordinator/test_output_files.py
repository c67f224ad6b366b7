"""Where `page`, `metrics` and `report` write, and what they never replace."""

import logging
import os
from pathlib import Path

import pytest

from shared.nas import overlap
from shared.state.states import State
from tests.support.copies import put_copy
from tests.unit.coordinator.conftest import Operator, copy
from tests.unit.coordinator.test_page import database

STAMP = "20261122T203800Z-17"
WAYS = [("page", "--output"), ("metrics", "--output"), ("report", "--html")]
every_way = pytest.mark.parametrize("way", WAYS, ids=[command for command, _ in WAYS])


@pytest.fixture
def clean(site_with_database: Operator) -> Operator:
    operator = site_with_database
    operator.add_vms("web01")
    operator.set("web01", status=State.CLEAN, last_copy=copy(), verified="2026-11-22T20:38:00Z")
    put_copy(operator.nas / "web01", STAMP)
    return operator


def refused(operator: Operator, way: tuple[str, str], target: str | Path) -> str:
    """What is said; nothing on the NAS has changed then."""
    before = tree(operator.nas)
    done = operator.admin(*way, str(target))
    assert done.exit_code == 2, done.output
    assert f"cannot write the {way[0]}" in done.stderr
    assert "hint: " in done.stderr
    assert tree(operator.nas) == before
    return done.stderr


def tree(top: Path) -> dict[Path, bytes | None]:
    return {
        path: path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in top.rglob("*")
    }


@every_way
def test_its_own_file_and_an_empty_one_are_replaced(
    clean: Operator, tmp_path: Path, way: tuple[str, str]
) -> None:
    target = tmp_path / "file"
    for empty in (True, False):
        if empty:
            target.touch()
        before = target.stat().st_ino
        assert clean.admin(*way, str(target)).exit_code == 0
        assert target.stat().st_size
        assert target.stat().st_ino != before


@every_way
@pytest.mark.parametrize(
    "data",
    [b"old", b"<<< Oracle VM VirtualBox Disk Image >>>", b"<!DOCTYPE html>\n<p>", b"# HELP x"],
)
def test_what_somebody_else_wrote_stays(
    clean: Operator, tmp_path: Path, way: tuple[str, str], data: bytes
) -> None:
    target = tmp_path / "disk.vdi"
    target.write_bytes(data)
    assert "it stays as it is" in refused(clean, way, target)
    assert target.read_bytes() == data
    assert [path.name for path in tmp_path.glob("*disk.vdi*")] == ["disk.vdi"]


@every_way
def test_each_replaces_its_own_kind_alone(
    clean: Operator, tmp_path: Path, way: tuple[str, str]
) -> None:
    for other in WAYS:
        target = tmp_path / other[0]
        assert clean.admin(*other, str(target)).exit_code == 0
        if other != way:
            refused(clean, way, target)


@every_way
@pytest.mark.parametrize(
    "name",
    [f"web01/{STAMP}.ova", f"web01/{STAMP}.json", "web01/new", "web01/sub/new", "vmstate/new",
     "vmstate/vmtool-db-version", "vmstate/gen/new", "archive/new", "archive/web01/new",
     "copied/new"],
)  # fmt: skip
def test_nothing_is_written_where_copies_or_the_database_are(
    clean: Operator, tmp_path: Path, way: tuple[str, str], name: str
) -> None:
    for directory in ("archive/web01", "web01/sub", "copied"):
        (clean.nas / directory).mkdir(parents=True, exist_ok=True)
    put_copy(clean.nas / "copied", STAMP)  # of no record
    link = tmp_path / "link"
    link.symlink_to((clean.nas / name).parent)
    around = clean.nas / "web01" / ".." / name
    for target in (clean.nas / name, around, link / Path(name).name):
        assert "it would lie in" in refused(clean, way, target)


@every_way
def test_a_link_is_refused_wherever_it_leads(
    clean: Operator, tmp_path: Path, way: tuple[str, str]
) -> None:
    for number, leads in enumerate((clean.nas / "web01" / f"{STAMP}.ova", tmp_path / "nowhere")):
        link = tmp_path / f"link{number}"
        link.symlink_to(leads)
        assert "symbolic link" in refused(clean, way, link)
        assert link.readlink() == leads


@every_way
def test_a_directory_is_known_whatever_the_case_of_its_name(
    clean: Operator, way: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share that ignores case shows one directory under both names."""
    real, shown = os.stat, str(clean.nas / "VMSTATE")
    (clean.nas / "VMSTATE").mkdir()

    def stat(path: str | Path, *rest: object, **how: bool) -> os.stat_result:
        place = clean.nas / "vmstate" if os.fspath(path) == shown else path
        return real(place, *rest, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(overlap.os, "stat", stat)
    assert "the state database" in refused(clean, way, clean.nas / "VMSTATE" / "new")


def test_beside_the_directories_of_vms_it_may_be(clean: Operator) -> None:
    (clean.nas / "pages").mkdir()
    for target in (clean.nas / "all.html", clean.nas / "pages" / "all.html"):
        assert clean.admin("page", "--output", str(target)).exit_code == 0


@pytest.mark.parametrize("section", ["page", "metrics"])
def test_workers_are_held_to_the_same(
    clean: Operator, section: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    target = clean.nas / "mine.html" if section == "page" else clean.folder / "mine.prom"
    target.write_text("mine", encoding="utf-8")
    clean.settings["page"] = {"file": ""}
    clean.settings[section] = {"file": target.name if section == "page" else str(target)}
    clean.configure()
    done = database(clean)
    assert done.exit_code == 1
    assert "it stays as it is" in done.stderr
    assert target.read_text(encoding="utf-8") == "mine"
