"""Reasons of commits that say more than the records do, made and understood in one place. Pure.

Which copy was read, rehearsed or removed stands in no record, only in the reason of its commit. One
that an older or newer program wrote in other words is not understood, and nothing is made of it.
"""

import re
from typing import Final

_STAMP: Final = r"[0-9]{8}T[0-9]{6}Z-[0-9]{1,19}"
_REMOVED: Final = re.compile(rf"; removed ({_STAMP}(?:, {_STAMP})*)")


def verified(key: str, stamp: str, result: str) -> str:
    """A copy was read in full: `good`, or what is wrong with it."""
    return f"verify {key} {stamp}: {result}"


def rehearsed(key: str, stamp: str, result: str) -> str:
    """A copy was restored on trial: `good`, or what went wrong."""
    return f"rehearsed {key} {stamp}: {result}"


def removed_by_hand(key: str, stamp: str) -> str:
    """An operator let a copy go."""
    return f"remove {key} {stamp}: done"


def pinned(key: str, stamp: str, *, pinned: bool) -> str:
    """An operator exempts a copy from retention, or takes that back."""
    return f"{'pin' if pinned else 'unpin'} {key} {stamp}"


def held(key: str, stamp: str, holder: str) -> str:
    """A VM runs from a copy from now on."""
    return f"hold {key} {stamp}: {holder}"


def let_go(key: str, stamp: str, holder: str) -> str:
    """It does not any more."""
    return f"let go of {key} {stamp}: {holder}"


def with_removed(reason: str, stamps: list[str]) -> str:
    """A reason, and the copies that retention let go before this commit."""
    return f"{reason}; removed {', '.join(stamps)}" if stamps else reason


def verification(reason: str, key: str) -> tuple[str, str] | None:
    """The stamp of the copy of this VM that was read, and the result; None: that is no such."""
    return _stamp_and_result(reason, f"verify {key} ")


def rehearsal(reason: str, key: str) -> tuple[str, str] | None:
    """The stamp of the copy of this VM that was rehearsed, and the result."""
    return _stamp_and_result(reason, f"rehearsed {key} ")


def pinning(reason: str, key: str) -> tuple[str, str] | None:
    """`pin` or `unpin`, and the stamp of the copy of this VM."""
    for word in ("pin", "unpin"):
        stamp = reason.removeprefix(f"{word} {key} ")
        if stamp != reason and re.fullmatch(_STAMP, stamp):
            return word, stamp
    return None


def removals(reason: str, key: str) -> list[str]:
    """The stamps of the copies of this VM that were removed before the commit."""
    if by_hand := _stamp_and_result(reason, f"remove {key} "):
        return [by_hand[0]] if by_hand[1] == "done" else []
    found = _REMOVED.search(reason)
    return found[1].split(", ") if found else []


def _stamp_and_result(reason: str, beginning: str) -> tuple[str, str] | None:
    if not reason.startswith(beginning):
        return None
    found = re.fullmatch(rf"({_STAMP}): (.+)", reason[len(beginning) :], re.DOTALL)
    return (found[1], found[2]) if found else None
