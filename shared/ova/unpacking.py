"""Unpacks the disks of an `.ova` into files while it is read once, from front to end, and checked.

`check_ova` reads, and compares every digest; what it reads of a disk is passed on to here: grains
are inflated and written by all cores, in any order. Whoever calls must not use the files before all
digests were right.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Self

from shared.host.errors import CopyError
from shared.host.kernel import available_cores
from shared.ova.compression import fastest_inflate
from shared.ova.grain_data import unpack
from shared.ova.vdi_writing import BLOCK, DiskFile
from shared.ova.vmdk import SECTOR
from shared.ova.vmdk_check import VmdkCheck

#: So many bytes of the disk are inflated and written together at most: a block of the image.
_TOGETHER: Final = BLOCK
#: More than sixteen only wait for the disk, and take memory.
THREADS_LIMIT: Final = 16


class Unpacker:
    """The threads that inflate and write. Use it in a `with` statement, which ends them."""

    def __init__(self, threads: int = 0) -> None:
        """With 0 `threads`, as many as there are cores that this process may use."""
        count = threads or min(available_cores(), THREADS_LIMIT)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="unpack")
        self._pending: deque[Future[None]] = deque()
        self._limit = 3 * count
        self._inflate = fastest_inflate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def disk(self, name: str, file: DiskFile) -> "DiskUnpacking":
        """What takes the bytes of the disk's VMDK, in order, and writes the disk into `file`."""
        return DiskUnpacking(self, name, file)

    def put(self, file: DiskFile, grains: Sequence[tuple[int, bytes]], size: int) -> None:
        """Inflates grains of `size` bytes, each for a place of the file; waits if many wait.

        Raises `CopyError`, `TargetError` of earlier ones.
        """
        self._pending.append(self._pool.submit(self._write, file, grains, size))
        while len(self._pending) > self._limit:
            self._pending.popleft().result()

    def wait(self) -> None:
        """Until everything is written. Raises `CopyError`, `TargetError`."""
        while self._pending:
            self._pending.popleft().result()

    def _write(self, file: DiskFile, grains: Sequence[tuple[int, bytes]], size: int) -> None:
        zeros, start, pieces = bytes(size), 0, list[bytes | bytearray]()
        for place, packed in grains:
            try:
                data = unpack(packed, size, self._inflate)
            except ValueError as error:
                raise CopyError(f"a block of a disk of the copy is damaged: {error}") from None
            if pieces and (data == zeros or place != start + len(pieces) * size):
                file.write(start, pieces)
                pieces = []
            if data == zeros:
                file.zero(place, size)
                continue
            start = start if pieces else place
            pieces.append(data)
        if pieces:
            file.write(start, pieces)


class DiskUnpacking:
    """Takes the bytes of one VMDK in pieces of any size."""

    def __init__(self, unpacker: Unpacker, name: str, file: DiskFile) -> None:
        self._unpacker, self._name, self._file = unpacker, name, file
        self._check = VmdkCheck(name, take=self._take)
        self._waiting: list[tuple[int, bytes]] = []
        self._grain = 0
        self._end = 0

    def update(self, data: bytes | memoryview) -> None:
        """The next bytes. Raises `CopyError` at the first thing that is wrong."""
        self._check.update(data)

    def finish(self) -> None:
        """After the last bytes, when all digests were right: the file is whole then.

        Raises `CopyError`, `TargetError`.
        """
        self._flush()
        self._unpacker.wait()
        self._check.finish()
        self._file.finish()

    def _take(self, number: int, packed: bytes, sectors: int) -> None:
        size = sectors * SECTOR
        if BLOCK % size or number * size >= self._file.size:
            raise CopyError(f"the disk {self._name!r} has a block that does not fit into it")
        if self._waiting and (number * size >= self._end or size != self._grain):
            self._flush()
        if not self._waiting:
            self._grain, self._end = size, (number * size // _TOGETHER + 1) * _TOGETHER
        self._waiting.append((self._file.reserve(number * size), packed))

    def _flush(self) -> None:
        if self._waiting:
            self._unpacker.put(self._file, self._waiting, self._grain)
            self._waiting = []
