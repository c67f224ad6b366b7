"""Commands that only ask, started a second time when an answer is late.

VBoxManage now and then sleeps for ten seconds in its own shutdown, after its work is done: up to
4 % of its calls, measured. Whoever asks twice has the answer of the one that does not.
"""

import signal
import time
from collections.abc import Mapping, Sequence
from typing import Final

from shared.host.processes import END_SECONDS, ChildProcess, Completed, as_text
from shared.host.signals import held_back

#: Nearly all calls have ended by then.
LATE_SECONDS: Final = 1.5
#: While two run, each is looked at in turn.
_POLL_SECONDS: Final = 0.05


class HedgingRunner:
    """Runs commands that change nothing; see `Runner`.

    One that has not ended after `late_seconds` is started once more. The first to end counts, with
    whatever it says, and the other is terminated.
    """

    def __init__(self, late_seconds: float = LATE_SECONDS) -> None:
        self._late_seconds = late_seconds

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """See `Runner.run`."""
        children: list[ChildProcess] = []
        began = time.monotonic()
        try:
            while (passed := time.monotonic() - began) < timeout_seconds or not children:
                if len(children) < (1 if passed < self._late_seconds else 2):
                    with held_back():  # from its start until it is known here
                        children.append(ChildProcess(arguments, environment=environment))
                alone = len(children) == 1
                wait = min(self._late_seconds, timeout_seconds) if alone else _POLL_SECONDS
                for child in children:
                    if (printed := child.printed(wait)) is not None:
                        stdout, stderr = map(as_text, printed)
                        return Completed(child.arguments, child.wait(), stdout, stderr)
        finally:
            for child in children:
                if child.poll() is None:
                    child.end()
                    child.printed(END_SECONDS)
        status = children[0].poll()
        killed = -signal.SIGKILL if status is None else status
        return Completed(children[0].arguments, killed, "", "", timed_out=True)
