"""Waiting for the NAS: until an error passes, and no longer than it is worth."""

import errno
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from shared.host.clock import Clock
from shared.nas.nas_errors import ABSENT, PASSING, FlushError

T = TypeVar("T")

#: Longer than the 35 s for which Samba makes others wait for a host that fell silent (docs/nas.md).
PATIENCE_SECONDS: Final = 45.0
_ATTEMPTS: Final = 12
#: How long a call waits for a server that is silent, in words: NFS mounted `hard` waits for ever.
AS_ITS_MOUNT: Final = "as long as its mount waits"


def patiently(act: Callable[[], T], clock: Clock) -> T | None:
    """Repeat, for some seconds, what meets errors that pass. None if there is no such name.

    Raises OSError. A flush that the disk refused is not repeated.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return act()
        except OSError as error:
            if error.errno in ABSENT:
                return None
            if (
                isinstance(error, FlushError)
                or error.errno not in PASSING
                or attempt == _ATTEMPTS - 1
            ):
                raise
        clock.sleep(min(2.0, 0.01 * 2**attempt))
    raise AssertionError("the loop returns or raises")


class Bounded:
    """Do one thing at a time in a thread, and wait for it only so long.

    A system call that hangs cannot be called off: what was given up may still be done at any time
    later, or when the process has ended, never.
    """

    def __init__(self, name: str, seconds: float = PATIENCE_SECONDS) -> None:
        self._name, self._seconds = name, seconds
        self._thread: threading.Thread | None = None

    def __call__(self, act: Callable[[], T]) -> T:
        """The result of `act`, or what it raises.

        Raises `TimeoutError` after so many seconds, and at once while `act` of before hangs.
        """
        if self._thread is not None and self._thread.is_alive():
            raise TimeoutError(
                errno.ETIMEDOUT, "it has not answered since the last time it was asked", self._name
            )
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(act())
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                errors.append(error)

        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._thread.start()
        self._thread.join(self._seconds)
        if errors:
            raise errors[0]
        if not results:
            raise TimeoutError(
                errno.ETIMEDOUT, f"no answer within {self._seconds:.0f} s", self._name
            )
        return results[0]
