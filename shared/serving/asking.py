"""Whether the server of a mount answers. Who asks one that hangs would wait as long as it does."""

import errno
import os
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from shared.host.waits import waiting

#: A server that has not answered after so long hangs, or waits for the NAS.
ASK_SECONDS: Final = 10.0
_GONE: Final = (errno.ENOTCONN, errno.ECONNABORTED)


class Life(StrEnum):
    """What a mount's server is like."""

    SERVED = "served"
    #: It is there, and does not answer.
    HANGS = "hangs"
    #: The mount is there without it.
    GONE = "gone"


class _Question(threading.Thread):
    """Asks by itself, as nothing breaks off whoever waits for an answer."""

    def __init__(self, ask: Callable[[str], object], place: str) -> None:
        super().__init__(name="asking a server", daemon=True)
        self._ask, self._place = ask, place
        self.gone = False

    def run(self) -> None:
        try:
            self._ask(self._place)
        except OSError as error:
            self.gone = error.errno in _GONE


#: What was asked and is not answered: nobody is asked twice at a time.
_open: Final = dict[str, _Question]()


def life_of(
    place: str, *, ask: Callable[[str], object] = os.statvfs, seconds: float | None = None
) -> Life:
    """What the server of a mount is like; waits for its answer so long at most (`ASK_SECONDS`).

    `ask` waits for an answer of it, and raises OSError if there is no server.
    """
    question = _open.get(place)
    if question is None or not question.is_alive():
        question = _open[place] = _Question(ask, place)
        question.start()
    limit = ASK_SECONDS if seconds is None else seconds
    with waiting(f"the server of {place}", limit):
        question.join(limit)
    if question.is_alive():
        return Life.HANGS
    _open.pop(place, None)
    return Life.GONE if question.gone else Life.SERVED
