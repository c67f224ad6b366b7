"""The table finds each kind of fault that it is there for."""

import pytest

from tests.ordinary import table
from tests.ordinary.conftest import require
from tests.ordinary.mutants import MUTANTS, Mutant
from tests.ordinary.table import Cell
from tests.ordinary.world import World


@pytest.mark.parametrize("name", MUTANTS)
def test_a_guard_that_is_missing_is_found(world: World, name: str) -> None:
    require(MUTANTS[name].cell)
    assert wrong(world, name), f"the table does not see it when {name}"


def wrong(world: World, name: str) -> str:
    """What the table says of the mutant; empty if nothing.

    What the mutant prepares, no other cell begins with.
    """
    mutant: Mutant = MUTANTS[name]
    if not mutant.from_the_start:
        table.begin(world, Cell("inside", "run", "new", mutant.cell.names))
    before = dict(world.kept)
    made = [
        f"{mutant.cell.names}, {mutant.cell.history}",
        *([mutant.cell.names] if mutant.from_the_start else []),
    ]
    for key in made:
        world.kept.pop(key, None)
    world.mutants = (f"tests.ordinary.mutants:{name}",)
    try:
        table.run(world, mutant.cell)
    except AssertionError as error:
        return str(error)
    finally:
        world.mutants = ()
        world.kept = {key: diary for key, diary in before.items() if key not in made}
    return ""
