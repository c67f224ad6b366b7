"""Real exports are hit in the middle, at seeded random moments.

Then the next ticks run, and everything is right again.
"""

import itertools
import time
from collections.abc import Callable

import pytest

from tests.fire.conftest import ROUND
from tests.fire.range import BLOWS, ENGINES, Range
from tests.support.proving import PROVE, PROVE_SECONDS, only_when_proving

#: What `make test` has time for; `make prove` has all of them.
QUICK = (
    "worker killed",
    "VBoxManage killed",
    "whole host lost its power",
    "VM started by its user",
    "disk detached",
    "VM renamed",
)

#: A blow may fall when the backup is done already: then it is tried again.
ATTEMPTS = 3

pytestmark = [pytest.mark.virtualbox, pytest.mark.timeout(PROVE_SECONDS + 900 if PROVE else 300)]

Record = Callable[[str, object], None]


def hit(field: Range, what: str, engine: str, record_property: Record) -> list[str]:
    """One round, which the table shows."""
    problems = field.round(what, engine)
    status = field.worker.returncode if field.worker else 0
    record_property(ROUND, f"{what}|{engine}|{status}|{'lost' if problems else 'survived'}")
    return problems


@pytest.mark.parametrize("what", BLOWS if PROVE else QUICK)
def test_the_next_ticks_put_right_what_happened(
    field: Range, what: str, record_property: Record
) -> None:
    engine = (
        ENGINES[list(BLOWS).index(what) % len(ENGINES)]
        if "VBoxManage" not in what
        else "vboxmanage"
    )
    for _ in range(ATTEMPTS):
        problems = hit(field, what, engine, record_property)
        assert not problems, "\n".join(problems)
        if field.worker and field.worker.returncode != 0:
            return  # the export was hit before it was done


@only_when_proving
def test_again_and_again(field: Range, record_property: Record) -> None:
    end = time.monotonic() + PROVE_SECONDS
    broken: list[str] = []
    for engine, what in itertools.cycle(itertools.product(ENGINES, BLOWS)):
        if time.monotonic() > end or len(broken) >= 3:
            break
        if problems := hit(field, what, engine, record_property):
            broken.append(f"{what} ({engine}):\n" + "\n".join(problems))
    assert not broken, "\n\n".join(broken)
