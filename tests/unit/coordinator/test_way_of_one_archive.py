"""docs/design.md tells the way of one `archive` through the code: it is followed here."""

import re
import sys
from pathlib import Path
from types import FrameType

from shared.state.states import State
from tests.support.copies import put_copy
from tests.unit.coordinator.conftest import Operator, copy

ROOT = Path(__file__).parents[3]
STAMP = "20261122T203800Z-17"


def told() -> list[tuple[str, str]]:
    """The functions of the way, each with its file."""
    page = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    section = page.split("## The way of one archive\n")[1].split("\n## ")[0]
    return re.findall(r"^\d+\. `([\w/]+\.py):([\w.]+)`: ", section, re.MULTILINE)


def test_the_way_is_short() -> None:
    way = told()
    assert 15 <= len(way) <= 25
    assert len({file for file, _ in way}) <= 12


def test_an_archive_goes_that_way(site_with_database: Operator) -> None:
    operator = site_with_database
    operator.add_vms("web")
    put_copy(operator.nas / "web", STAMP, sides={"vbox": b"<VirtualBox/>"})
    operator.set("web", status=State.CLEAN, last_copy=copy(STAMP))
    called: dict[tuple[str, str], int] = {}

    def note(frame: FrameType, event: str, _argument: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(f"{ROOT}/"):
            name = (path.removeprefix(f"{ROOT}/"), frame.f_code.co_qualname)
            called.setdefault(name, len(called))

    sys.setprofile(note)
    try:
        result = operator.admin("archive", "web")
    finally:
        sys.setprofile(None)
    assert result.exit_code == 0, result.output
    way = told()
    assert [step for step in way if step not in called] == []
    assert way == sorted(way, key=called.__getitem__), "in the order in which they are told"
