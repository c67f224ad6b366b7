"""The right to remove files of a published copy.

Only `shared.copies.keeping` gives it, after it has looked (a test sees to that).

Whoever removes such a file has to show it, so that nothing that is added to this program can remove
a copy without the proof.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Permit:
    """For the files `names` of one copy, in `directory`. `reason` is what was proved, in words.

    Not to be kept: it is true when it is given.
    """

    directory: Path
    stamp: str
    names: frozenset[str]
    reason: str
