"""The programs are killed at every place where they write to the NAS.

The next tick puts everything right.
"""

from collections.abc import Callable

import pytest

from tests.crash import from_copies
from tests.crash.hunt import EVERY, QUICK, Hunt, hunt
from tests.crash.mutants import MUTANTS
from tests.crash.scenarios import SCENARIOS, Scenario
from tests.crash.world import World
from tests.support.drawing import SEED, TOLD, drawn
from tests.support.proving import PROVE, PROVE_SECONDS

ALL = (*SCENARIOS, *from_copies.SCENARIOS)

pytestmark = pytest.mark.timeout(3600 if PROVE else 300)


def start(make_world: Callable[..., World], scenario: Scenario) -> World:
    if scenario in from_copies.SCENARIOS:
        from_copies.require_fuse()
    world = make_world(scenario.archive, backup=dict(scenario.backup))
    scenario.prepare(world)
    return world


def report(found: Hunt) -> str:
    lines = [
        f"{where}\n" + "".join(f"    {problem}\n" for problem in problems)
        for where, problems in found.broken.items()
    ]
    return f"{len(lines)} of {found.kills} kills broke a promise ({TOLD}):\n" + "".join(lines[:8])


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_whatever_is_interrupted_the_next_tick_puts_right(
    make_world: Callable[..., World],
    scenario: Scenario,
    record_property: Callable[[str, object], None],
) -> None:
    world = start(make_world, scenario)
    if PROVE:
        found = hunt(world, scenario, EVERY, seconds=PROVE_SECONDS / len(ALL))
    else:
        found = hunt(world, scenario, QUICK, every=scenario.every, seed=SEED)
    for name in ("points", "places", "met", "kills", "survived", "left"):
        record_property(name, getattr(found, name))
    assert found.points >= 3
    assert found.kills > 0
    # Of a few that were drawn one may be missed: what watches a clock does not write equally often.
    assert found.missed <= max(1, found.kills / 4), "the points of two runs are not the same"
    assert not found.broken, report(found)
    if PROVE:
        assert found.met >= found.places - found.missed, "no program was killed at some place"


@pytest.mark.parametrize("name", drawn(list(MUTANTS), every=2))
def test_a_program_with_a_fault_is_found_out(make_world: Callable[..., World], name: str) -> None:
    scenario = next(scenario for scenario in ALL if scenario.name == MUTANTS[name].scenario)
    world = start(make_world, scenario)
    found = hunt(
        world, scenario, QUICK, every=MUTANTS[name].every, mutants=[name], where=MUTANTS[name].where
    )
    assert found.broken, f"{MUTANTS[name].fault}: {found.kills} kills did not show it"
