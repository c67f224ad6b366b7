"""The numbers of claims that stand in the names of copies, whatever the database says."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from shared.copies.names import parse_final, parse_partial, parse_stamp
from shared.nas.reading import look, look_at_top
from shared.state.numbers import believable


def highest_claim(directories: Iterable[Path]) -> int:
    """The highest claim number in the names of copies and partial files there; 0 if there is none.

    No database may count from below it, whatever became of the one before. A number out of bounds
    is passed over, and so is a directory that cannot be read: whoever goes on to use it is told.
    """
    return max(
        (
            number
            for directory in directories
            for number in _numbers(directory)
            if believable(number)
        ),
        default=0,
    )


def directories_in(parents: Iterable[Path]) -> Iterator[Path]:
    """Everything directly in `parents`: what may be the directory of a VM."""
    for parent in parents:
        with contextlib.suppress(OSError):
            yield from (parent / name for name in look_at_top(parent))


def _numbers(directory: Path) -> Iterator[int]:
    with contextlib.suppress(OSError):  # also: it is a file, or a link
        for name in look(directory):
            if final := parse_final(name):
                yield parse_stamp(final[0]).claim
            elif partial := parse_partial(name):
                yield partial.claim
                yield parse_stamp(partial.stamp).claim
