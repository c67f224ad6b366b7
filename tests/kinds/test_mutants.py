"""Each kind of guard that is taken away is found by a cell of the table, or that proves nothing."""

import importlib

import pytest

from tests.kinds.axes import possible
from tests.kinds.mutants import MUTANTS, MutantMember
from tests.kinds.test_table import Pair, pair, run
from tests.support.proving import only_when_proving

pytestmark = pytest.mark.virtualbox
__all__ = ["pair"]


def mutated(pair: Pair, name: str) -> Pair:
    """The same hosts, with the programs of a mutant."""
    members = []
    for one in (pair.first, pair.other):
        member = MutantMember(one.fleet, one.host, one.release, one.settings)
        member.mutant = name
        members.append(member)
    return Pair(*members)


@only_when_proving
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(pair: Pair, name: str) -> None:
    with pytest.raises(AssertionError) as caught:
        run(mutated(pair, name), [MUTANTS[name].cell], 1)
    print(f"{name}: {str(caught.value)[:200]!r}")


@pytest.mark.parametrize("name", MUTANTS)
def test_what_a_mutant_takes_away_is_there(name: str) -> None:
    """Or the table finds that its programs do not begin."""
    mutant = MUTANTS[name]
    assert callable(getattr(importlib.import_module(mutant.module), mutant.name))


def test_each_cell_of_a_mutant_is_one_of_the_table() -> None:
    assert [name for name, mutant in MUTANTS.items() if not possible(mutant.cell)] == []


@only_when_proving
def test_their_cells_are_as_they_must_be_without_a_mutant(pair: Pair) -> None:
    cells = list(dict.fromkeys(mutant.cell for mutant in MUTANTS.values()))
    done = run(pair, cells, 1)
    assert (done.total(), done["not made"]) == (len(cells), 0)
