"""Pings: a web address hears that a run of this host began, and how it ended (healthchecks)."""

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from shared.host.errors import ConfigurationError, ExitCode
from shared.host.printable import printable_lines

if TYPE_CHECKING:
    from shared.host.configuration import Configuration

log: Final = logging.getLogger(__name__)

#: So many of the last lines are sent with a failure, each no longer than that.
_LINES: Final = 30
_LENGTH: Final = 400
#: With which a run went well: VMs that run are no fault.
_WELL: Final = frozenset({ExitCode.DONE, ExitCode.SOME_DEFERRED})
_JOIN_SECONDS: Final = 10.0


class Pings:
    """The pings of one run. Without a URL nothing is sent.

    Each takes 10 s at most; the first one does not hold the run up. What goes wrong is a warning.
    """

    def __init__(self, url: str, node: str = "") -> None:
        self._url, self._node = url, node
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._starting: threading.Thread | None = None

    @classmethod
    def of(cls, configuration: "Configuration | None") -> Self:
        """Those that the configuration asks for. One that cannot be sent is said."""
        if configuration is None or not configuration.ping.url.get_secret_value():
            return cls("")
        from shared.host.secret_values import revealed

        try:
            url = revealed(configuration.ping.url, "ping.url")
        except ConfigurationError as error:
            hint = f" ({error.hint})" if error.hint else ""
            log.error("nobody hears of this run: %s%s", error.message, hint)  # noqa: TRY400
            return cls("")
        return cls(url, configuration.host.node)

    def hear(self, line: str) -> None:
        """Remembers a line of a worker, of which the last ones are sent with a failure."""
        self._lines.append(printable_lines(line)[:_LENGTH])

    def begin(self) -> None:
        """Says that a run begins. Does not wait."""
        if self._url:
            self._starting = threading.Thread(target=self._ping, args=("start",), daemon=True)
            self._starting.start()

    def end(self, code: ExitCode) -> None:
        """Says how the run ended, after that it began. A run that was stopped says nothing."""
        if self._starting is None or code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
            return
        self._starting.join(_JOIN_SECONDS)
        if code in _WELL:
            self._ping("")
            return
        last = f"{self._node}: the run ended with exit code {code.value}: {code.meaning}"
        self._ping("fail", "\n".join([*self._lines, last]))

    def _ping(self, what: str, body: str = "") -> None:
        from shared.notices.sending import ping

        try:
            problem = ping(self._url, what, body)
        except (ConfigurationError, OSError) as error:
            problem = error.message if isinstance(error, ConfigurationError) else str(error)
        if problem:
            log.warning("the ping was not heard: %s", problem)
