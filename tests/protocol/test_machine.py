"""Long schedules, drawn by hypothesis. One that fails is made short and shown.

`make test` draws the same ones each time.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from shared.state.sessions import deaths
from tests.protocol.machine import Machine
from tests.protocol.mutants import MUTANTS, Patch
from tests.support.proving import PROVE, PROVE_SECONDS

_SAME: Final = settings(
    max_examples=100 if PROVE else 40,
    stateful_step_count=50,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)
_OTHERS: Final = settings(_SAME, derandomize=False)
#: Of the time of `make prove`, so much is for schedules by chance.
_SHARE: Final = 0.7


@pytest.mark.timeout(3600 if PROVE else 300)
def test_schedules_by_chance_hold(record_property: Callable[[str, object], None]) -> None:
    run_state_machine_as_test(Machine, settings=_SAME)
    end = time.monotonic() + (PROVE_SECONDS * _SHARE if PROVE else 0)
    rounds = 1
    while time.monotonic() < end:
        run_state_machine_as_test(Machine, settings=_OTHERS)
        rounds += 1
    record_property("runs", rounds * _SAME.max_examples)
    print(
        f"{rounds * _SAME.max_examples} schedules of up to {_SAME.stateful_step_count} events each"
    )


def _judges_at_first_sight(patch: Patch) -> None:
    patch.setattr(
        deaths,
        "watch_silent",
        lambda database, rows, seconds: [deaths.Dead(row, "not looked at") for row in rows],
    )


#: What the search finds, too, and what only a schedule with time in it can show.
_BROKEN: Final = {
    **{mutant.name: (mutant.breaks, mutant.scenario.rules) for mutant in MUTANTS},
    "judges a session at first sight": (_judges_at_first_sight, Machine.laws),
}
_CAUGHT: Final = (
    "believes that a publication was done",
    "does not run the change again after a lost race",
    "publishes by a rename that replaces",
    "answers before its generation is on the disk",
    "commits without a flush",
    "forgets expired sessions at once",
    "numbers each commit of a session 1",
    "does not look at the claim",
    "finishes without an intent",
    "keeps the claims of expired sessions",
    "judges a session at first sight",
)


def _break(name: str, patch: Patch) -> type[Machine]:
    breaks, rules = _BROKEN[name]
    breaks(patch)

    class Broken(Machine):
        laws = replace(rules, prunes=True, passing=True)

    return Broken


@pytest.mark.parametrize("name", _CAUGHT)
def test_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = _break(name, monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever shows it
        run_state_machine_as_test(
            broken, settings=settings(_SAME, max_examples=400, phases=[Phase.generate])
        )


def test_a_schedule_that_fails_is_made_short(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = _break("publishes by a rename that replaces", monkeypatch)
    with pytest.raises(AssertionError, match="a generation was replaced") as caught:
        run_state_machine_as_test(
            broken, settings=settings(_SAME, max_examples=100, stateful_step_count=8)
        )
    events = [line for line in caught.value.__notes__ if line.startswith("state.")]
    print("\n".join(caught.value.__notes__))
    assert 3 <= len(events) < 12
