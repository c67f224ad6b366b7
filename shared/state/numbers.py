"""Bounds of claim numbers.

They stand in names of files, where anybody can write anything; counters only ever grow. Pure.
"""

from typing import Final

#: No name of a copy has a number from here on.
CLAIM_LIMIT: Final = 1 << 53
#: A thousand claims a second for thirty years: a name with a higher number was not reached by
#: counting, and nobody counts on from it.
_HIGHEST_FLOOR: Final = 10**12
#: Whoever was made to count on from that, by a name that somebody planted, can do so for as long
#: again.
_PLAUSIBLE: Final = 2 * _HIGHEST_FLOOR


def plausible(claim: int) -> bool:
    """Whether a claim can have had this number.

    One that is out of bounds orders nothing, and its copy does not count.
    """
    return 1 <= claim <= _PLAUSIBLE


def believable(floor: int) -> bool:
    """Whether a number that stands in a name is counted on from.

    Numbers above it are plausible still, so that none is ever used up.
    """
    return 1 <= floor <= _HIGHEST_FLOOR


def next_number(granted: int, floor: int) -> int:
    """The number of the next claim.

    Above all that the database has `granted`, and above `floor` if that can be believed.
    """
    return max(granted, floor if believable(floor) else 0) + 1
