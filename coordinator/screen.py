"""A screen that is shown again and again, without flicker: for `--watch`."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Final

#: To the upper left corner; to the end of the screen nothing of before stays.
_HOME: Final = "\x1b[H"
_CLEAR_BELOW: Final = "\x1b[J"


@contextlib.contextmanager
def replaced() -> Iterator[None]:
    """Within, what is printed takes the place of what was there, at once. Elsewhere it follows."""
    if not sys.stdout.isatty():
        yield
        sys.stdout.write("\n")
        sys.stdout.flush()
        return
    sys.stdout.write(_HOME + _CLEAR_BELOW)
    yield
    sys.stdout.write(_CLEAR_BELOW)
    sys.stdout.flush()
