"""Each rule of the protocol is needed.

Without it, the search finds a schedule in which something is lost.
"""

import pytest

from tests.protocol.mutants import MUTANTS, Mutant
from tests.protocol.search import search


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_is_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.breaks(monkeypatch)
    result = search(mutant.scenario)
    print(result)
    assert result.violation is not None, f"not caught: {result}"
    assert result.trace
