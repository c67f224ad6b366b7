"""How long `doctor` waits for programs that hang: all of them together, not each."""

from collections.abc import Mapping, Sequence
from typing import Final

from shared.host.clock import Clock
from shared.host.processes import Completed, Runner

#: How long one question to VirtualBox may take, and all of them.
ANSWER_SECONDS: Final = 20.0
ALL_SECONDS: Final = 35.0


class BoundedRunner:
    """Runs commands that together may take `seconds`; then each has timed out at once.

    A command that does not end may take a little longer, until it is ended.
    """

    def __init__(self, runner: Runner, clock: Clock, seconds: float) -> None:
        self._runner, self._clock = runner, clock
        self._left = seconds

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """See `Runner.run`."""
        if self._left <= 0:
            return Completed(tuple(arguments), -1, "", "", timed_out=True)
        began = self._clock.monotonic()
        try:
            return self._runner.run(
                arguments,
                timeout_seconds=min(timeout_seconds, self._left),
                environment=environment,
            )
        finally:
            self._left -= self._clock.monotonic() - began
