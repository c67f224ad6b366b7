"""All processes of a run draw the same, and each choice is drawn by some run."""

import os
import subprocess
import sys

import pytest

from tests.support import drawing


def test_a_process_that_a_run_starts_draws_the_same() -> None:
    program = "from tests.support.drawing import SEED; print(SEED)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{drawing.SEED}\n"
    assert f"VMBACKUP_SEED={done.stdout}" == f"{drawing.TOLD}\n"


def test_each_choice_is_drawn_by_some_seed_and_all_in_the_long_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choices = ["a", "b", "c", "d", "e"]
    monkeypatch.setattr(drawing, "PROVE", False)
    one, part = [], []
    for seed in range(5):
        monkeypatch.setattr(drawing, "SEED", seed)
        one += drawing.drawn(choices)
        part.append(drawing.drawn(choices, every=2))
    assert one == choices
    assert part[0] == ["a", "c", "e"]
    assert part[1] == ["b", "d"]
    monkeypatch.setattr(drawing, "PROVE", True)
    assert drawing.drawn(choices) == choices


@pytest.mark.slow  # there is no make in the environment of the newest Python
def test_make_gives_all_lanes_one_seed_and_keeps_one_that_is_given() -> None:
    asked = ["make", "-pn", "help"]
    given = subprocess.run(
        asked, env={**os.environ, "VMBACKUP_SEED": "5"}, capture_output=True, text=True, check=False
    )
    assert "\nVMBACKUP_SEED = 5\n" in given.stdout
    bare = {name: value for name, value in os.environ.items() if name != "VMBACKUP_SEED"}
    own = subprocess.run(asked, env=bare, capture_output=True, text=True, check=False)
    assert "\nVMBACKUP_SEED := " in own.stdout
