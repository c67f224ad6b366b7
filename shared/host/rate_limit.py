"""How fast the programs of this host may send and read, all of them together.

A token bucket in the host's state directory: one number, the moment at which all that was taken so
far will have passed. Whoever wants to pass bytes adds their time to it under a lock, and waits for
the moment that comes out. The lock is the system's own and ends with its process; a process that is
killed costs the others the little that it had taken. A moment that cannot be one (torn, edited by
hand, of before the last boot) counts as none.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from shared.host.clock import Clock

log: Final = logging.getLogger(__name__)

FILE_NAME: Final = "bytes-per-second"
#: What was not taken may be taken later: so many seconds' worth.
CREDIT_SECONDS: Final = 0.5
#: Bytes are taken in pieces, by turns with the other processes: of a 16th of a second, but not too
#: many and not too small.
_PIECES: Final = 16
_SMALLEST: Final = 1 << 16
_LARGEST: Final = 1 << 20
#: The others never take more ahead: a piece of the slowest limit lasts 0.7 s.
_FARTHEST_SECONDS: Final = 60.0
#: How soon whoever waits notices that it is to stop.
_LOOK_SECONDS: Final = 0.25
#: Whoever has the lock has it for a moment. One that was stopped meanwhile is waited for so long.
_LOCK_SECONDS: Final = 5.0
TRY_SECONDS: Final = 0.01
_WIDTH: Final = 24
_MOMENT: Final = re.compile(rb"[0-9]{17}\.[0-9]{6}")
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast one piece of work may go: as the limit says, or as fast as it can without one."""

    limit: "RateLimit | None" = None
    should_stop: Callable[[], bool] = lambda: False

    @property
    def bytes_per_second(self) -> int:
        """0: no limit."""
        return self.limit.bytes_per_second if self.limit else 0

    def wait(self, count: int) -> None:
        """Waits until so many bytes may pass, or until the work is to stop."""
        if self.limit:
            self.limit.take(count, self.should_stop)

    def until(self, ended: Callable[[], bool]) -> "Pace":
        """The same, which nobody waits for any more when `ended`, either."""
        should_stop = self.should_stop
        return replace(self, should_stop=lambda: should_stop() or ended())


UNLIMITED: Final = Pace()


class RateLimit:
    """The limit of one host; `bytes_per_second` 0: none.

    Where the state directory gives no lock, or another process keeps it, each process keeps to the
    limit by itself, and the log says so. Threads may share it.
    """

    def __init__(self, state_directory: Path, bytes_per_second: int, clock: Clock) -> None:
        self._path = state_directory / FILE_NAME
        self._clock = clock
        self._alone: float | None = None
        self._told = False
        self.bytes_per_second = bytes_per_second

    def pace(self, should_stop: Callable[[], bool] = lambda: False) -> Pace:
        """The pace of one piece of work."""
        return Pace(self if self.bytes_per_second else None, should_stop)

    def take(self, count: int, should_stop: Callable[[], bool]) -> None:
        """Waits until so many bytes may pass: with what others take in turns, or alone."""
        most = min(max(self.bytes_per_second // _PIECES, _SMALLEST), _LARGEST)
        while count > 0 and not should_stop():
            self._wait_until(self._reserve(min(count, most), should_stop), should_stop)
            count -= most

    def _wait_until(self, moment: float, should_stop: Callable[[], bool]) -> None:
        while (left := moment - self._clock.monotonic()) > 0 and not should_stop():
            self._clock.sleep(min(left, _LOOK_SECONDS))

    def _reserve(self, count: int, should_stop: Callable[[], bool]) -> float:
        """The moment at which so many bytes may have passed, behind what was taken before."""
        try:
            with self._locked(should_stop) as descriptor:
                moment = self._after(_read(descriptor), count)
                os.pwrite(descriptor, f"{moment:0{_WIDTH}.6f}".encode(), 0)
                os.ftruncate(descriptor, _WIDTH)
            self._alone = None
        except InterruptedError:
            return self._clock.monotonic()
        except OSError as error:
            self._tell(error)
            moment = self._alone = self._after(self._alone, count)
        return moment

    def _tell(self, error: OSError) -> None:
        if not self._told:
            log.warning(
                "backup.bytes_per_second holds for each process alone: cannot use %s: %s",
                self._path,
                error.strerror or error,
            )
        self._told = True

    def _after(self, moment: float | None, count: int) -> float:
        now = self._clock.monotonic()
        if moment is None or moment > now + _FARTHEST_SECONDS:
            moment = now
        return max(moment, now - CREDIT_SECONDS) + count / self.bytes_per_second

    @contextlib.contextmanager
    def _locked(self, should_stop: Callable[[], bool]) -> Iterator[int]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        descriptor = os.open(self._path, _FLAGS, 0o640)
        try:
            if os.geteuid() == 0:  # the workers may be another user's
                owner = os.stat(self._path.parent)
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            self._lock(descriptor, should_stop)
            yield descriptor
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int, should_stop: Callable[[], bool]) -> None:
        """Raises `InterruptedError` if the work is to stop, OSError without the lock.

        Whoever had to go on alone does not wait for it again, before it was free once.
        """
        patience = 0.0 if self._alone is not None else _LOCK_SECONDS
        end = self._clock.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                return
            if should_stop():
                raise InterruptedError
            if self._clock.monotonic() >= end:
                raise OSError(
                    errno.EAGAIN, f"another process has kept it for {_LOCK_SECONDS:.0f} s"
                )
            self._clock.sleep(TRY_SECONDS)


def _read(descriptor: int) -> float | None:
    """The moment that is noted; None if it cannot be one."""
    data = os.pread(descriptor, _WIDTH + 1, 0)
    return float(data) if _MOMENT.fullmatch(data) else None
