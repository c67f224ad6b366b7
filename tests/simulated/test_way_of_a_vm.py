"""What `docs/design.md` says of the way of one VM is the way that it goes."""

import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from shared.state.states import State
from tests.simulated.conftest import Rig
from worker import notifier, vmfind
from worker.backup import worker as backup

ROOT = Path(__file__).parents[2]


class Traced:
    """The functions of this repository that are called meanwhile, each once, in their order."""

    def __init__(self) -> None:
        self.calls: dict[str, None] = {}

    def __enter__(self) -> dict[str, None]:
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self.calls

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(f"{ROOT}/"):
            file = Path(code.co_filename).relative_to(ROOT)
            self.calls.setdefault(f"{file}:{code.co_qualname}")


def listed() -> Iterator[str]:
    page = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    section = page.split("## The way of one VM\n", 1)[1].split("\n## ", 1)[0]
    yield from re.findall(r"^\d+\. `([\w/]+\.py:[\w.]+)`: \w", section, re.MULTILINE)


def test_a_vm_that_is_off_goes_the_way_that_is_written_down(rig: Rig) -> None:
    rig.host().make_vm("web01")
    site = rig.site(engine="parallel")
    with Traced() as calls:
        for worker in (vmfind, notifier, backup):
            assert worker.run(site).done  # type: ignore[attr-defined]
    assert rig.record("web01").status == State.CLEAN
    way = list(listed())
    assert [step for step in way if step not in calls] == []
    assert sorted(way, key=list(calls).index) == way
    assert len(way) <= 25
    assert len({step.split(":")[0] for step in way}) <= 12
