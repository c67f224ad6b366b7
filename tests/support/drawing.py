"""What a run draws where it does not try everything.

All processes of a run draw the same, and so does its second look at what failed. Each run draws
anew; a test that fails prints the seed, which draws the same again when it is in the environment.
"""

import os
import random
from collections.abc import Sequence
from typing import Final, TypeVar

from tests.support.proving import PROVE

One = TypeVar("One")

_NAME: Final = "VMBACKUP_SEED"
#: Of this run. Processes that it starts find it in their environment.
SEED: Final = int(os.environ.setdefault(_NAME, str(random.SystemRandom().randrange(10**6))))
#: For what a test prints.
TOLD: Final = f"{_NAME}={SEED}"


def drawn(choices: Sequence[One], *, every: int | None = None) -> list[One]:
    """Of choices that each take long: all of them in the long run (`PROVE`), else one.

    Or each one in so many. What is drawn has its own name in the test's, so that a second look at
    it finds it again.
    """
    if PROVE:
        return list(choices)
    step = every or len(choices)
    return list(choices[SEED % step :: step])
