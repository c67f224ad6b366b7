"""What is waited for, said to whoever sits at a terminal once that takes more than two seconds.

`waiting` stands around whatever may wait: a program that was started, the NAS, a lock. At a
terminal it is a line that goes when the wait is over; where lines are logged, one of them. Under
cron nothing is said of it, and nothing is done for it.
"""

import contextlib
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from shared.host.duration import spoken
from shared.host.logs import NOTICE, JsonFormatter
from shared.host.printable import printable

log: Final = logging.getLogger(__name__)

#: Whoever waits less than this does not wonder.
SILENT_SECONDS: Final = 2.0
#: Shows what is waited for; an empty text: that is over.
Voice = Callable[[str], None]


@contextlib.contextmanager
def waiting(what: str, at_most: float | str, *, began: float | None = None) -> Iterator[None]:
    """Within, `what` is waited for; `at_most` so many seconds, or how long in words.

    Said `SILENT_SECONDS` after it began (by the monotonic clock; None: now), if log lines of level
    NOTICE are. Of several within each other the outermost speaks; what threads of their own wait
    for holds nobody up, and is not said.
    """
    if not _wait.may_begin():
        yield
        return
    limit = at_most if isinstance(at_most, str) else f"{spoken(at_most)} at most"
    passed = 0.0 if began is None else time.monotonic() - began
    number = _wait.begin()
    text = f"waiting for {what}, {limit}"
    timer = threading.Timer(max(0.0, SILENT_SECONDS - passed), _wait.say, [number, text])
    timer.daemon = True
    try:
        with contextlib.suppress(RuntimeError):  # no more threads: it is waited in silence
            timer.start()
        yield
    finally:
        timer.cancel()
        _wait.end()


def pausing(
    sleep: Callable[[float], None], what: str, at_most: float | str
) -> Callable[[float], None]:
    """`sleep` for the pauses between attempts at one thing, whose waiting began now: see `waiting`.

    `what` is waited for in all of them together.
    """
    began = time.monotonic()

    def pause(seconds: float) -> None:
        with waiting(what, at_most, began=began):
            sleep(seconds)

    return pause


@contextlib.contextmanager
def shown_by(voice: Voice) -> Iterator[None]:
    """Within, `voice` shows what is waited for, from a thread of its own."""
    before, _wait.voice = _wait.voice, voice
    try:
        yield
    finally:
        _wait.voice = before


def say_on_stderr(text: str) -> None:
    """Shows it on standard error: in place at a terminal, else as a line of the log.

    Also where lines would run into it, and where they are JSON.
    """
    as_json = any(isinstance(each.formatter, JsonFormatter) for each in logging.root.handlers)
    if not sys.stderr.isatty() or as_json or log.isEnabledFor(logging.INFO):
        if text:
            log.log(NOTICE, "%s", text)
        return
    room = shutil.get_terminal_size().columns - 1
    with contextlib.suppress(OSError):
        sys.stderr.write(f"\r\033[K{printable(text)[:room]}")
        sys.stderr.flush()


class _Wait:
    """The wait of the main thread, if there is one."""

    def __init__(self) -> None:
        self.voice: Voice = say_on_stderr
        self._guard = threading.Lock()
        self._begun = self._over = 0
        self._said = False

    def may_begin(self) -> bool:
        """Whether a wait that begins now is to be said."""
        main = threading.current_thread() is threading.main_thread()
        return main and self._begun == self._over and log.isEnabledFor(NOTICE)

    def begin(self) -> int:
        """One begins: its number."""
        self._begun += 1
        return self._begun

    def say(self, number: int, text: str) -> None:
        """Says what is waited for, if that is not over."""
        with self._guard:
            if self._begun == number != self._over:
                self._said = True
                self.voice(text)

    def end(self) -> None:
        """It is over."""
        with self._guard:
            said, self._said, self._over = self._said, False, self._begun
            if said:
                self.voice("")


_wait: Final = _Wait()
