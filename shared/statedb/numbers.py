"""Bounds of claim numbers. They stand in names of files, where anybody can write anything; counters only ever grow. Pure."""

from typing import Final

#: No name of a copy has a number from here on.
CLAIM_LIMIT: Final = 1 << 53
#: A thousand claims a second for thirty years: a higher number was not reached by counting.
_PLAUSIBLE: Final = 10**12


def plausible(claim: int) -> bool:
    """Whether a claim can have had this number. One that is out of bounds moves no counter, and orders nothing."""
    return 1 <= claim <= _PLAUSIBLE


def next_number(granted: int, floor: int) -> int:
    """The number of the next claim: above all that the database has `granted`, and above `floor` if that can be believed."""
    return max(granted, floor if plausible(floor) else 0) + 1
