"""Real exports are hit in the middle, at seeded random moments; then the next ticks run, and everything is right again."""

import itertools
import time
from collections.abc import Callable

import pytest

from tests.fire.conftest import PROVE, PROVE_SECONDS
from tests.fire.range import BLOWS, ENGINES, Range, Tally

#: A blow may fall when the backup is done already: then it is tried again.
ATTEMPTS = 3

pytestmark = [pytest.mark.virtualbox, pytest.mark.timeout(PROVE_SECONDS + 900 if PROVE else 300)]


@pytest.mark.parametrize("what", BLOWS)
def test_the_next_ticks_put_right_what_happened(field: Range, tally: Tally, what: str) -> None:
    engine = ENGINES[list(BLOWS).index(what) % len(ENGINES)] if what != "VBoxManage killed" else "vboxmanage"
    for _ in range(ATTEMPTS):
        problems = field.round(what, engine, tally)
        assert not problems, "\n".join(problems)
        if field.worker and field.worker.returncode != 0:
            return  # the export was hit before it was done


@pytest.mark.skipif(not PROVE, reason="takes as long as VMBACKUP_PROVE_SECONDS says; set VMBACKUP_PROVE=1")
def test_again_and_again(field: Range, tally: Tally, record_property: Callable[[str, object], None]) -> None:
    end = time.monotonic() + PROVE_SECONDS
    broken: list[str] = []
    for engine, what in itertools.cycle(itertools.product(ENGINES, BLOWS)):
        if time.monotonic() > end or len(broken) >= 3:
            break
        if problems := field.round(what, engine, tally):
            broken.append(f"{what} ({engine}):\n" + "\n".join(problems))
    record_property("kills", sum(tally.done.values()))
    record_property("survived", sum(tally.survived.values()))
    assert not broken, "\n\n".join(broken)
