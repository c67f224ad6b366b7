"""The table: whatever is configured, done and called so, no copy and no VM is lost, and CLEAN is
true.

CI runs a drawn part (the seed is printed; `VMBACKUP_SEED` gives it again) and all cells that
once were wrong; `make prove` runs at least cells in which each pair of values of two axes is, and
goes on with the others as far as its time goes.
"""

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ordinary import configurations, table
from tests.ordinary.cases import CASES
from tests.ordinary.conftest import require
from tests.ordinary.names import NAMES
from tests.ordinary.table import Cell, Tally
from tests.ordinary.world import World
from tests.support.drawing import SEED, TOLD
from tests.support.proving import PROVE

#: How long each drawn part takes in CI; there are three of them.
_PART_SECONDS = 8
_PARTS = list(NAMES) if PROVE else ["first", "second", "third"]
#: The whole takes as long as it takes, unless `make prove` says how long it may: then two processes
#: share the parts.
_BOUND = float(os.environ.get("VMBACKUP_PROVE_SECONDS", "inf"))
_SECONDS = 2 * _BOUND / len(_PARTS) if PROVE else _PART_SECONDS


#: So many cells are run in CI however slow the machine is.
_AT_LEAST = 4


def for_seconds(seconds: float, at_least: int) -> Iterator[bool]:
    end = time.monotonic() + seconds
    yield from (True for _ in range(at_least))
    while True:
        yield time.monotonic() < end


@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", _PARTS)
def test_nothing_is_lost(
    world: World, part: str, record_property: Callable[[str, object], None]
) -> None:
    names = (
        part if PROVE else random.Random(SEED).sample(list(NAMES), len(_PARTS))[_PARTS.index(part)]
    )
    chosen = [cell for cell in table.cells() if cell.names == names]
    tally, order, at_least = Tally(), list(table.drawn(SEED, chosen)), _AT_LEAST
    if PROVE:  # first those that have all pairs of values
        first = table.covering(SEED)
        order.sort(key=lambda cell: cell not in first)
        at_least = len(first & set(chosen))
    table.run_all(world, order, tally, for_seconds(_SECONDS, at_least))
    said = f"{names}, {TOLD}: of {len(chosen)} cells {tally}"
    print(said)
    record_property("runs", tally.ran.total())
    record_property("table", said)
    assert not tally.wrong, said
    assert tally.ran.total() + tally.impossible.total() >= at_least, said


@pytest.mark.parametrize("cell", CASES, ids=str)
def test_what_once_was_wrong(world: World, cell: Cell) -> None:
    require(cell)
    table.run(world, cell)


def test_each_pair_of_values_is_in_the_cells_that_are_run_first() -> None:
    every, few = table.cells(), table.covering(seed=1)
    assert few <= set(every)
    assert len(few) * 8 < len(every)
    assert set().union(*map(table.pairs_of, few)) == set().union(*map(table.pairs_of, every))


def test_each_pair_of_values_is_in_the_table() -> None:
    cells = table.cells()
    assert len({(cell.configuration, cell.names) for cell in cells}) == len(
        configurations.CONFIGURATIONS
    ) * len(NAMES)
    assert len({(cell.command, cell.history, cell.names) for cell in cells}) == len(
        table.commands.COMMANDS
    ) * len(NAMES) * len(table.histories.HISTORIES)


def test_the_tests_that_the_list_names_are_there() -> None:
    folder = Path(__file__).resolve().parent
    named = set(re.findall(r"`(test_\w+)`", (folder / "README.md").read_text(encoding="utf-8")))
    there = {
        name
        for path in folder.parent.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert named - there == set()
    assert len(named) > 40
