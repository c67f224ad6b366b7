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

from shared.export.compared_disk import ComparedDisk
from shared.export.takeover import DiskPart, PreviousDisk, read_changed
from shared.host.stages import CancelledError, Stage
from shared.ova.disk import Chain
from shared.ova.grain_columns import NO_GRAINS, GrainColumns
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
    part: DiskPart
    result: "Future[CompressedUnit]"
    unread: int = 0
    raw: GrainColumns = NO_GRAINS


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
        previous: PreviousDisk | ComparedDisk | None = None,
    ) -> None:
        """Copies one disk. What did not change since the `previous` copy is taken from there.

        A disk that is compared is told what was read. Raises `CancelledError`, or the first error
        of any thread.
        """
        sink.put(layout.begin(), None)
        jobs: deque[_Job] = deque()
        note = previous.note if isinstance(previous, ComparedDisk) else None

        def emit() -> None:
            job = jobs.popleft()
            self._emit(job, layout, sink, meter)
            if note and job.raw.numbers:
                note(job.raw)

        blocks = chain.blocks()
        whole = (DiskPart(block.length, block) for block in blocks)
        for part in previous.parts(blocks) if previous else whole:
            job = _Job(part, Future())
            self._begin(job)
            jobs.append(job)
            if len(jobs) >= self._window:
                emit()
        while jobs:
            emit()
        for data in layout.end():
            sink.put(data, None)

    def close(self) -> bool:
        """Ends the threads.

        False if one hangs while it reads: then the images must stay open.
        """
        return self._stage.end(_END_SECONDS)

    def _begin(self, job: _Job) -> None:
        """Has it compressed; where nothing is read there is nothing to do for a thread."""
        if job.part.block is None:
            self._compress(job)
        else:
            self._stage.put(job)

    def _compress(self, job: _Job) -> None:
        try:
            unit = self._unit(job)
        except BaseException as error:  # noqa: BLE001 - raised again where the result is awaited
            job.result.set_exception(error)
        else:
            job.result.set_result(unit)

    def _unit(self, job: _Job) -> CompressedUnit:
        part, units = job.part, self._settings.units
        if part.block is not None and part.expected is not None:
            unit, job.raw = part.expected.unit(part.block.position, part.block.read(), units)
            return unit
        if part.block is not None and part.changed is None:
            return compress_unit(part.block.position, part.block.read(), units)
        changed = read_changed(part)
        job.unread = part.length - sum(map(len, changed.values()))
        return mixed_unit(changed, part.taken, units)

    def _emit(self, job: _Job, layout: VmdkLayout, sink: DiskSink, meter: ReadMeter) -> None:
        unit = awaited(job.result, self._cancelled)
        if unit.runs:
            *tables, data = layout.add(unit)
            for table in tables:
                sink.put(table, None)
            sink.put(data, unit)
        meter.done += job.part.length
        meter.unread += job.unread


def awaited(result: "Future[CompressedUnit]", cancelled: threading.Event) -> CompressedUnit:
    """The unit, as soon as it is done.

    Raises what its job raised, and `CancelledError` once `cancelled` is set.
    """
    while not cancelled.is_set():
        try:
            return result.result(timeout=_POLL_SECONDS)
        except FutureTimeoutError:
            # it was done just now, or this is a TimeoutError of the job itself
            if result.done():
                return result.result()
    raise CancelledError
