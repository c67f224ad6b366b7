"""Copies one disk into an OVA: reads and compresses on several cores, writes in order.

Memory is bounded by the number of units under way, whatever the size of the disk: at most
`_MOST_CORES` blocks being compressed, twice as many finished ones, and the queues of the writer,
all of at most 1 MiB.
"""

import threading
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Final, Protocol

from shared.export.takeover import NOTHING_UNCHANGED, PreviousDisk, Unchanged, read_changed
from shared.host.stages import CancelledError, Stage
from shared.ova.disk import Block, Chain
from shared.ova.vmdk_units import CompressedUnit, UnitSettings, compress_unit, mixed_unit
from shared.ova.vmdk_writing import VmdkLayout

_MOST_CORES: Final = 16
_POLL_SECONDS: Final = 0.1
_END_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class CompressionSettings:
    """On how many cores to compress, and how."""

    cores: int
    units: UnitSettings


class DiskSink(Protocol):
    """Takes the bytes of a disk in order."""

    def put(self, data: bytes, unit: CompressedUnit | None) -> None:
        """Takes the next bytes. May wait; raises what went wrong with earlier ones.

        `unit` is what they are the data of; None: they are tables and the like.
        """


class ReadMeter:
    """How much of its disks an export has read: `done` of `total` bytes. For other threads, too.

    `unread` of what is done did not have to be read, because the copy before has it.
    """

    def __init__(self) -> None:
        self.total = 0
        self.done = 0
        self.unread = 0

    def percent(self) -> int:
        """How much of the disks is read. 100 does not mean that the export has ended."""
        return 100 * self.done // self.total if self.total else 0


@dataclass(slots=True)
class _Job:
    block: Block
    result: "Future[CompressedUnit]"
    unchanged: Unchanged
    unread: int = 0


class Pipeline:
    """The compressing threads of one export."""

    def __init__(self, settings: CompressionSettings, cancelled: threading.Event) -> None:
        self._settings = settings
        self._cancelled = cancelled
        cores = max(1, min(settings.cores, _MOST_CORES))
        self._window = 2 * cores + 2
        self._stage = Stage(
            name="compress",
            handle=self._compress,
            capacity=self._window,
            cancelled=cancelled,
            threads=cores,
        )

    def copy(
        self,
        chain: Chain,
        layout: VmdkLayout,
        sink: DiskSink,
        meter: ReadMeter,
        previous: PreviousDisk | None = None,
    ) -> None:
        """Copies one disk. What did not change since the `previous` copy is taken from there.

        Raises `CancelledError`, or the first error of any thread.
        """
        sink.put(layout.begin(), None)
        jobs: deque[_Job] = deque()
        for block in chain.blocks():
            job = _Job(block, Future(), previous.of(block) if previous else NOTHING_UNCHANGED)
            self._begin(job)
            jobs.append(job)
            if len(jobs) >= self._window:
                self._emit(jobs.popleft(), layout, sink, meter)
        while jobs:
            self._emit(jobs.popleft(), layout, sink, meter)
        for data in layout.end():
            sink.put(data, None)

    def close(self) -> bool:
        """Ends the threads.

        False if one hangs while it reads: then the images must stay open.
        """
        return self._stage.end(_END_SECONDS)

    def _begin(self, job: _Job) -> None:
        """Has it compressed; where nothing is read there is nothing to do for a thread."""
        if not job.unchanged.whole:
            self._stage.put(job)
            return
        job.unread = job.block.length
        job.result.set_result(mixed_unit({}, job.unchanged.taken, self._settings.units))

    def _compress(self, job: _Job) -> None:
        try:
            block, unchanged, units = job.block, job.unchanged, self._settings.units
            if unchanged is NOTHING_UNCHANGED:
                unit = compress_unit(block.position, block.read(), units)
            else:
                changed = read_changed(block, unchanged)
                job.unread = block.length - sum(map(len, changed.values()))
                unit = mixed_unit(changed, unchanged.taken, units)
        except BaseException as error:  # noqa: BLE001 - raised again where the result is awaited
            job.result.set_exception(error)
        else:
            job.result.set_result(unit)

    def _emit(self, job: _Job, layout: VmdkLayout, sink: DiskSink, meter: ReadMeter) -> None:
        unit = self._wait(job.result)
        if unit.runs:
            *tables, data = layout.add(unit)
            for table in tables:
                sink.put(table, None)
            sink.put(data, unit)
        meter.done += job.block.length
        meter.unread += job.unread

    def _wait(self, result: "Future[CompressedUnit]") -> CompressedUnit:
        while not self._cancelled.is_set():
            try:
                return result.result(timeout=_POLL_SECONDS)
            except FutureTimeoutError:
                if (
                    result.done()
                ):  # it was done just now, or this is a TimeoutError of the job itself
                    return result.result()
        raise CancelledError
