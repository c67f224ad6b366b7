"""Fills disks that are served already with what is missing, beside whoever reads them."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from coordinator.booting.served_disk import ServedDisk
from coordinator.mounting.steady_copy import GoneError
from shared.host.errors import VmBackupError
from shared.ova.vdi_writing import BLOCK, TargetError

_THREADS: Final = 2
_AGAIN_SECONDS: Final = 5.0
#: The pause after a failure doubles until it is so many times as long as the first one.
_LONGEST_PAUSE: Final = 16


class Filler:
    """Fills disks, one after the other, until all is local or it is stopped.

    What cannot be read or written now is tried again, as long as it takes: the NAS comes back, and
    there is room again. What a disk did not take when it was flushed is fetched anew. `ended` is
    set when it is stopped, and waited for in its pauses.
    """

    def __init__(
        self,
        disks: Sequence[ServedDisk],
        *,
        again_seconds: float = _AGAIN_SECONDS,
        threads: int = _THREADS,
        ended: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._disks, self._again_seconds, self._clock = disks, again_seconds, clock
        self._threads, self._ended = threads, ended or threading.Event()
        #: Whether the disks of this host take nothing more as of now.
        self._refused = threading.Event()
        self._began = clock()
        self._before = 0
        #: Why something could not be filled the last time; empty: nothing is wrong.
        self.problem = ""

    def run(self) -> bool:
        """Returns when all is local and flushed to the disk: True. False: it was stopped."""
        self._before, pause = self.filled, 1
        while not self._ended.is_set():
            before = self.filled
            problem = self._round()
            if not problem and self.filled == self.total:
                problem = self._flush()
                if not problem:
                    self.problem = ""
                    return True
            self.problem = problem
            pause = 1 if self.filled > before else pause
            self._ended.wait(self._again_seconds * pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return False

    def stop(self) -> None:
        """Makes `run` return soon."""
        self._ended.set()

    @property
    def total(self) -> int:
        """How many bytes the disks will have."""
        return BLOCK * sum(disk.blocks for disk in self._disks)

    @property
    def filled(self) -> int:
        """How many bytes are local."""
        return BLOCK * sum(disk.filled for disk in self._disks)

    @property
    def short(self) -> int:
        """For how many of the bytes that are missing there is no room as of now."""
        with contextlib.suppress(OSError):  # they may be closed by now
            room = min((disk.room for disk in self._disks), default=0)
            return max(0, self.total - self.filled - room)
        return 0

    @property
    def rate(self) -> float:
        """Bytes a second, since it was begun."""
        return max(0, self.filled - self._before) / max(0.001, self._clock() - self._began)

    def _round(self) -> str:
        """Tries all that is missing, up to the first that cannot be written; what was wrong."""
        self._refused.clear()
        problem = ""
        with ThreadPoolExecutor(self._threads, thread_name_prefix="filling") as pool:
            for disk in self._disks:
                wanted = (number for number in range(disk.blocks) if not disk.is_local(number))
                for said in pool.map(lambda number, disk=disk: self._fill(disk, number), wanted):
                    if said is not None:
                        problem = self.problem = said or problem
        return problem

    def _fill(self, disk: ServedDisk, number: int) -> str | None:
        """Why a block could not be filled; None if that was not tried."""
        if self._ended.is_set() or self._refused.is_set():
            return None
        try:
            disk.make_local(number)
        except TargetError as error:
            self._refused.set()
            return error.message
        except VmBackupError as error:
            return error.message
        except (OSError, GoneError) as error:
            return str(error)
        return ""

    def _flush(self) -> str:
        try:
            for disk in self._disks:
                disk.flush()
        except (VmBackupError, ValueError) as error:  # the latter: some of it is not local again
            return str(error)
        return ""
