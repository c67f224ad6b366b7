"""The numbers of claims that stand in names of files.

Below them no database may start to count, whatever became of the one before.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from shared.copies.names import parse_final, parse_partial, parse_stamp
from shared.nas.reading import look
from shared.state.numbers import believable


def highest(directories: Iterable[Path]) -> int:
    """The highest number that names in these directories have, of copies and of partial files.

    0 if there is none.

    A number out of bounds is passed over, and so is a directory that cannot be read: whoever goes
    on to use it is told why.
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


def directories_in(places: Iterable[Path]) -> Iterator[Path]:
    """All that lies directly in `places` and may be the directory of a VM."""
    for place in places:
        with contextlib.suppress(OSError):
            yield from (place / name for name in look(place))


def _numbers(directory: Path) -> Iterator[int]:
    with contextlib.suppress(OSError):  # also: it is a file, or a link
        for name in look(directory):
            if final := parse_final(name):
                yield parse_stamp(final[0]).claim
            elif partial := parse_partial(name):
                yield partial.claim
                yield parse_stamp(partial.stamp).claim
