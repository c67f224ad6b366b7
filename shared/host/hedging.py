"""Commands that only ask, started a second time when an answer is late.

VBoxManage now and then sleeps for ten seconds in its own shutdown, after its work is done: up to
4 % of its calls, measured. Whoever asks twice has the answer of the one that does not.

The other one is left to end by itself. `showvminfo` holds the lock of a VM's session. VirtualBox
takes a VM that is off for crashed when whoever holds that lock is ended: it is `aborted` from then
on, and counts as used (docs/virtualbox.md).
"""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Final

from shared.host.processes import ChildProcess, Completed, as_text
from shared.host.signals import held_back

#: Nearly all calls have ended by then.
LATE_SECONDS: Final = 1.5
#: While two run, each is looked at in turn.
_POLL_SECONDS: Final = 0.05
#: Those that run on although their answer is not wanted any more, whoever asked.
_left: Final[list["_Question"]] = []


class _Question:
    """A command that asks, and writes where it can go on writing if nobody waits for it."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str] | None, ends: float
    ) -> None:
        """`ends`: by the clock of who asks; from then on it may be ended."""
        self._papers = stdout, stderr = _paper(), _paper()
        self.ends = ends
        try:
            self.child = ChildProcess(
                arguments, environment=environment, stdout=stdout, stderr=stderr
            )
        except BaseException:
            self._close()
            raise

    def answer(self, seconds: float) -> Completed | None:
        """What it said; None if it has not ended after so long."""
        status = self.child.wait_at_most(seconds)
        if status is None:
            return None
        for paper in self._papers:
            paper.seek(0)
        stdout, stderr = (as_text(paper.read()) for paper in self._papers)
        return Completed(self.child.arguments, status, stdout, stderr)

    def forget(self, seconds: float) -> bool:
        """Does without its answer; whether it has ended after so long."""
        self._close()
        return self.child.wait_at_most(seconds) is not None

    def end(self, seconds: float) -> None:
        """Ends it, unless it does so by itself in so many seconds."""
        if not self.forget(seconds):
            self.child.end()

    def _close(self) -> None:
        for paper in self._papers:
            paper.close()


class HedgingRunner:
    """Runs commands that change nothing; see `Runner`.

    One that has not ended after `late_seconds` is started once more. The first to end counts, with
    whatever it says. The other one has as long again; then it is left to itself, and ended only
    when its own time is over and another command is run. Those that are interrupted have
    `patience_seconds` to end by themselves, and so have those whose time is over: what they say
    then counts. Where the machine stood still, none of them hangs. `now`: seconds that only grow.
    """

    def __init__(
        self,
        late_seconds: float = LATE_SECONDS,
        *,
        patience_seconds: float = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._late_seconds, self._patience_seconds = late_seconds, patience_seconds
        self._now = now

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """See `Runner.run`."""
        _end_overdue(self._now())
        asked: list[_Question] = []
        began = self._now()
        try:
            while (passed := self._now() - began) < timeout_seconds or not asked:
                if len(asked) < (1 if passed < self._late_seconds else 2):
                    with held_back():  # from its start until it is known here
                        ends = self._now() + timeout_seconds
                        asked.append(_Question(arguments, environment, ends))
                alone = len(asked) == 1
                wait = min(self._late_seconds, timeout_seconds) if alone else _POLL_SECONDS
                if answer := self._first_answer(asked, wait):
                    return answer
            over = self._now()
            while self._now() - over < self._patience_seconds:
                if answer := self._first_answer(asked, _POLL_SECONDS):
                    return answer
        except BaseException:  # we are interrupted
            end = self._now() + self._patience_seconds
            for one in asked:
                one.end(max(0.0, end - self._now()))
            raise
        for one in asked:
            one.end(0)
        status = asked[0].child.poll()
        killed = -signal.SIGKILL if status is None else status
        return Completed(asked[0].child.arguments, killed, "", "", timed_out=True)

    def _first_answer(self, asked: Sequence[_Question], wait: float) -> Completed | None:
        """The answer of one that has ended, so many seconds after each was looked at, if any."""
        for one in asked:
            if answer := one.answer(wait):
                # a moment, in which it may let go of its locks
                _left.extend(each for each in asked if not each.forget(self._late_seconds))
                return answer
        return None


def _end_overdue(now: float) -> None:
    for one in _left:
        if one.ends <= now:
            one.end(0)
    _left[:] = [one for one in _left if not one.forget(0)]


def _paper() -> IO[bytes]:
    """A file without a name. In memory where there is such: a full disk has no answers."""
    make = getattr(os, "memfd_create", None)
    return os.fdopen(make("answer"), "w+b", 0) if make else tempfile.TemporaryFile(buffering=0)
