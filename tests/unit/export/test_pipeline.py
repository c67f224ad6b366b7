"""Disks go through the threads unharmed.

Errors, cancellation and bounds hold with all of them at work.
"""

import os
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from uuid import UUID

import pytest

from shared.export.pipeline import CompressionSettings, Pipeline, ReadMeter, awaited
from shared.host.errors import CopyError, DiskImageError
from shared.host.stages import CancelledError
from shared.ova.compression import Codec, zlib_codec
from shared.ova.disk import Chain
from shared.ova.vmdk_units import CompressedUnit, UnitSettings
from shared.ova.vmdk_writing import VmdkLayout
from tests.support.disk_files import ZERO, Vdi, VmdkReader, content, pattern

BLOCK = 65536


class Collector:
    """A sink that keeps everything, slowly if asked to."""

    def __init__(self, seconds: float = 0) -> None:
        self.data = b""
        self.units: list[CompressedUnit] = []
        self._seconds = seconds

    def put(self, data: bytes, unit: CompressedUnit | None) -> None:
        time.sleep(self._seconds)
        self.data += data
        if unit:
            self.units.append(unit)


def disk(blocks: int) -> Vdi:
    stored: dict[int, bytes | int] = {
        number: pattern(number, BLOCK) for number in range(0, blocks, 2)
    }
    return Vdi(blocks * BLOCK - 1024, {**stored, 3: ZERO, 5: bytes(BLOCK)})


def copy(
    chain: Chain,
    sink: Collector,
    *,
    cores: int = 3,
    codec: Codec | None = None,
    cancelled: threading.Event | None = None,
    check: bool = True,
) -> ReadMeter:
    meter, event = ReadMeter(), cancelled or threading.Event()
    pipeline = Pipeline(
        CompressionSettings(cores, UnitSettings(codec or zlib_codec(1), check)), event
    )
    try:
        pipeline.copy(chain, VmdkLayout("x", chain.size, 0, UUID(int=1)), sink, meter)
    finally:
        assert pipeline.close()
    return meter


@pytest.mark.broad
@pytest.mark.parametrize("cores", [1, 4, 100])
def test_a_disk_arrives_whole_and_in_order(tmp_path: Path, cores: int) -> None:
    image = disk(200)
    sink = Collector()
    with Chain.open([image.write(tmp_path / "a")]) as chain:
        meter = copy(chain, sink, cores=cores)
        assert meter.done == chain.data_bytes()
    assert VmdkReader(sink.data).disk(image.size) == content([image])
    assert [
        number for unit in sink.units for run in unit.runs for number in run.grains.numbers
    ] == list(range(0, 200, 2))


def test_the_number_of_threads_is_bounded(tmp_path: Path) -> None:
    before = threading.active_count()
    pipeline = Pipeline(CompressionSettings(1000, UnitSettings(zlib_codec(1))), threading.Event())
    assert threading.active_count() - before == 16
    assert pipeline.close()
    assert threading.active_count() == before


def test_an_unreadable_block_is_an_error(tmp_path: Path) -> None:
    image = disk(60)
    path = image.write(tmp_path / "a")
    with Chain.open([path]) as chain:
        os.truncate(path, image.data_offset + 10 * BLOCK)
        with pytest.raises(DiskImageError, match="ends inside of a block"):
            copy(chain, Collector())


@pytest.mark.broad
def test_the_self_check_finds_a_broken_compressor_in_any_block(tmp_path: Path) -> None:
    right = zlib_codec(1)
    victim = pattern(40, BLOCK)
    broken = Codec(
        "broken",
        lambda data: right.compress(bytes(len(data)) if data == victim else data),
        right.decompress,
    )
    with Chain.open([disk(60).write(tmp_path / "a")]) as chain:
        with pytest.raises(CopyError, match=f"byte {40 * BLOCK}"):
            copy(chain, Collector(), codec=broken)
        copy(chain, Collector(), codec=broken, check=False)


def test_an_error_of_the_sink_ends_everything(tmp_path: Path) -> None:
    class Full(Collector):
        def put(self, data: bytes, unit: CompressedUnit | None) -> None:
            super().put(data, unit)
            if len(self.units) > 5:
                raise OSError("full")

    with (
        Chain.open([disk(200).write(tmp_path / "a")]) as chain,
        pytest.raises(OSError, match="full"),
    ):
        copy(chain, Full())


@pytest.mark.broad
@pytest.mark.parametrize("slow", ["sink", "compressor"])
def test_cancelling_ends_it_soon(tmp_path: Path, slow: str) -> None:
    cancelled = threading.Event()
    right = zlib_codec(1)

    def compress(data: bytes) -> bytes:
        time.sleep(0.3 if slow == "compressor" else 0)
        return right.compress(data)

    with Chain.open([disk(200).write(tmp_path / "a")]) as chain:
        threading.Timer(0.3, cancelled.set).start()
        start = time.monotonic()
        with pytest.raises(CancelledError):
            copy(
                chain,
                Collector(0.05 if slow == "sink" else 0),
                codec=Codec("slow", compress, right.decompress),
                cancelled=cancelled,
            )
        assert time.monotonic() - start < 1.5


def test_a_unit_that_is_done_the_moment_the_wait_for_it_ends_is_taken() -> None:
    """On a busy machine the thread that waits may be told that time is over, and look only after
    the unit is done.
    """

    class DoneJustNow(Future[CompressedUnit]):
        def result(self, timeout: float | None = None) -> CompressedUnit:
            if timeout is not None:
                self.set_result(unit)
                raise FutureTimeoutError
            return super().result()

    unit = CompressedUnit()
    assert awaited(DoneJustNow(), threading.Event()) is unit


def test_a_disk_that_answers_too_late_is_an_error() -> None:
    failed: Future[CompressedUnit] = Future()
    failed.set_exception(TimeoutError("the disk"))
    with pytest.raises(TimeoutError, match="the disk"):
        awaited(failed, threading.Event())


@pytest.mark.broad
def test_finished_units_do_not_pile_up_before_a_slow_sink(tmp_path: Path) -> None:
    counted, right = [0], zlib_codec(1)
    ahead: list[int] = []

    def compress(data: bytes) -> bytes:
        counted[0] += 1
        return right.compress(data)

    class Watching(Collector):
        def put(self, data: bytes, unit: CompressedUnit | None) -> None:
            super().put(data, unit)
            ahead.append(counted[0] - len(self.units))

    with Chain.open([disk(200).write(tmp_path / "a")]) as chain:
        copy(chain, Watching(0.005), cores=2, codec=Codec("counting", compress, right.decompress))
    assert max(ahead) <= 2 * 2 + 2 + 2


def test_progress_is_by_bytes() -> None:
    meter = ReadMeter()
    assert meter.percent() == 0
    meter.total, meter.done = 3_000_000, 1_000_000
    assert meter.percent() == 33
