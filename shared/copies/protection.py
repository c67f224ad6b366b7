"""Which copies must not go by themselves, and why. Pure: the rules alone, no look at the NAS.

Without an operator's word a copy goes only if all of this holds: its sidecar can be read and has
this VM's UUID; it is good; it is not pinned, and no VM runs from it; it is not the one that was
just published; a newer good copy is there, newer by every sign (`shared.copies.chronology`), which
is another file, and not suspect; one that was read in full is there besides, a newer one if it was
itself; and its order to no other good copy is disputed. One with which nothing is wrong but that
VirtualBox would not import it counts for no good one, and goes when a newer one is there, good or
not imported either.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from shared.copies import chronology
from shared.copies.catalogue import Copy

#: Why the first of all copies stays.
NEWEST: Final = "newest good copy"
_PROTECTED: Final = "the last one that was made, or somebody reads or holds it"
_SUSPECT: Final = "what is newer took blocks over from a damaged copy, and was not read since"
_NEWEST_READ: Final = "the newest copy that was read in full"
_NONE_READ: Final = "no copy was read in full yet"


def must_stay(copies: Iterable[Copy], *, protect: Collection[str] = ()) -> dict[str, list[str]]:
    """Why each copy must not go by itself, by stamp.

    An empty list: it may, if no rule of retention keeps it. Pure.

    `protect` are stamps that stay whatever is said of them: that of the copy which was published
    last, and of those that somebody reads.
    """
    found = list(copies)
    good = chronology.oldest_first(copy for copy in found if copy.good)
    refused = [copy for copy in found if copy.refused]
    return {
        copy.stamp: list(
            _of_refused(copy, [*good, *refused], protect)
            if copy.refused
            else _reasons(copy, good, protect)
        )
        for copy in found
    }


def _of_refused(copy: Copy, others: list[Copy], protect: Collection[str]) -> Iterator[str]:
    """Why a copy that VirtualBox would not import must stay.

    Its disks are whole, so one that is newer by every sign, good or refused as well, stands in for
    it. It never stands in for a good one.
    """
    if copy.pinned:
        yield "pinned"
    yield from (hold.words for hold in copy.holds)
    if copy.stamp in protect:
        yield _PROTECTED
    if not any(
        chronology.supersedes(other, copy)
        and not (one_file(other, copy) or other.suspect)
        and (_every_byte_read(other) or not _every_byte_read(copy))
        for other in others
    ):
        yield "the newest state of its disks, although VirtualBox would not import it"


def _reasons(copy: Copy, good: list[Copy], protect: Collection[str]) -> Iterator[str]:
    if good and copy is good[-1]:
        yield NEWEST
    if copy.pinned:
        yield "pinned"
    yield from (hold.words for hold in copy.holds)
    if not copy.good:
        yield f"does not count: {copy.problem}"
        return
    if copy.stamp in protect and copy is not good[-1]:
        yield _PROTECTED
    if rivals := chronology.rivals(copy, good):
        others = f" and {len(rivals) - 1} more" if len(rivals) > 1 else ""
        yield f"not known whether it is older than {rivals[-1].stamp}{others}"
    elif copy is not good[-1] and (lacking := _lacks_successor(copy, good)):
        yield lacking


def _lacks_successor(copy: Copy, good: list[Copy]) -> str:
    """Why no newer copy stands in for a good one; empty if one does."""
    newer = [
        other for other in good if chronology.supersedes(other, copy) and not one_file(other, copy)
    ]
    if not newer:
        return "what is newer is the same file"
    if not any(other.sound for other in newer):
        return _SUSPECT
    if copy.read_in_full:
        return "" if any(other.read_in_full for other in newer) else _NEWEST_READ
    read = (other for other in good if other.read_in_full and not one_file(other, copy))
    return "" if any(read) else _NONE_READ


def _every_byte_read(copy: Copy) -> bool:
    """Also of one that VirtualBox would not import, and that is not good for that alone."""
    return copy.sidecar is not None and copy.sidecar.read_in_full and not copy.suspect


def one_file(one: Copy, other: Copy) -> bool:
    """Whether two copies are the same file. Where files have no numbers, their names tell."""
    return one.file == other.file and one.file[1] != 0
