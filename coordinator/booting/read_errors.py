"""What the guest could not read, and what VirtualBox is told then.

VirtualBox gives an error of reading to the guest, which takes its disk for broken. After a broken
pipe it pauses the VM instead, and when the VM is resumed it asks again.
"""

import errno
import threading
from collections.abc import Mapping

from coordinator.booting.served_disk import ServedDisk
from coordinator.mounting.steady_copy import GoneError
from shared.host.errors import NasError
from shared.ova.vdi_writing import BLOCK


class Refusals:
    """Reads served disks, by their names, and remembers what could not be read. For any thread."""

    def __init__(self, disks: Mapping[str, ServedDisk]) -> None:
        self._disks = disks
        self._lock = threading.Lock()
        self._refused: dict[tuple[str, int], str] = {}
        self._open = 0

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Like `ServedDisk.read`."""
        place = (name, offset // BLOCK)
        try:
            data = self._disks[name].read(offset, length)
        except (NasError, GoneError) as error:
            with self._lock:
                self._refused[place] = str(error)
            raise
        with self._lock:
            if place[1] == 0:  # the header: whoever asked has opened it anew
                for refused in [each for each in self._refused if each[0] == name]:
                    del self._refused[refused]
            self._refused.pop(place, None)
        return data

    def opened(self, change: int) -> None:
        """A disk was opened: 1; or closed: -1. While none is open, no guest waits."""
        with self._lock:
            self._open += change
            if not self._open:
                self._refused.clear()

    @property
    def problem(self) -> str:
        """Why the guest waits; empty if it got all that it asked for."""
        with self._lock:
            return next(iter(self._refused.values()), "")


def number_of(error: Exception) -> int:
    """What the kernel is told: the NAS may come back, a damaged block is an error of reading."""
    return errno.EPIPE if isinstance(error, NasError | GoneError) else errno.EIO
