"""Stages keep order and bounds, and end at once on errors and cancellation."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shared.host.stages import CancelledError, Stage


@pytest.fixture
def make() -> Iterator[Callable[..., Stage[Any]]]:
    stages: list[Stage[Any]] = []

    def stage(handle: Callable[[Any], None], **options: Any) -> Stage[Any]:
        options.setdefault("cancelled", threading.Event())
        stages.append(Stage(name="test", handle=handle, **{"capacity": 2, **options}))
        return stages[-1]

    yield stage
    for made in stages:
        assert made.end(5)


def feed(stage: Stage[int], count: int) -> None:
    for number in range(count):
        stage.put(number)


def test_one_thread_keeps_the_order(make: Callable[..., Stage[int]]) -> None:
    seen: list[int] = []
    stage = make(seen.append)
    feed(stage, 500)
    stage.finish()
    assert seen == list(range(500))


def test_several_threads_handle_each_item_once_and_at_the_same_time(
    make: Callable[..., Stage[int]],
) -> None:
    seen: list[int] = []
    together = threading.Barrier(3, timeout=5)

    def handle(number: int) -> None:
        together.wait()
        seen.append(number)

    stage = make(handle, threads=3)
    feed(stage, 30)
    stage.finish()
    assert sorted(seen) == list(range(30))


def test_a_full_queue_makes_the_producer_wait(make: Callable[..., Stage[int]]) -> None:
    go = threading.Event()
    stage = make(lambda _: bool(go.wait(5)), capacity=2)
    accepted: list[int] = []

    def produce() -> None:
        for number in range(10):
            stage.put(number)
            accepted.append(number)

    producer = threading.Thread(target=produce)
    producer.start()
    time.sleep(0.3)
    assert len(accepted) == 3  # one being handled, two waiting
    go.set()
    producer.join(5)
    assert len(accepted) == 10


def test_the_first_error_stops_the_rest_and_reaches_the_producer(
    make: Callable[..., Stage[int]],
) -> None:
    seen: list[int] = []

    def handle(number: int) -> None:
        seen.append(number)
        if number == 3:
            raise ValueError("three")

    stage = make(handle)
    with pytest.raises(ValueError, match="three"):
        feed(stage, 1000)
    with pytest.raises(ValueError, match="three"):
        stage.finish()
    assert seen == [0, 1, 2, 3]


def test_finish_raises_an_error_of_the_last_item(make: Callable[..., Stage[int]]) -> None:
    stage = make(lambda number: [][number])
    stage.put(0)
    with pytest.raises(IndexError):
        stage.finish()


@pytest.mark.parametrize(
    "wait", [lambda stage: feed(stage, 5), Stage.finish], ids=["put", "finish"]
)
def test_cancelling_frees_a_waiting_producer_soon(
    make: Callable[..., Stage[int]], wait: Callable[[Stage[int]], None]
) -> None:
    cancelled, hang = threading.Event(), threading.Event()
    stage = make(lambda _: bool(hang.wait(20)), capacity=1, cancelled=cancelled)
    stage.put(1)
    threading.Timer(0.2, cancelled.set).start()
    start = time.monotonic()
    with pytest.raises(CancelledError):
        wait(stage)
    assert time.monotonic() - start < 1
    hang.set()


def test_a_thread_that_hangs_is_reported_and_not_waited_for() -> None:
    """What it has in hand it still handles, once it can; what waits is dropped."""
    started, go = threading.Event(), threading.Event()
    seen: list[int] = []

    def handle(number: int) -> None:
        started.set()
        go.wait(20)
        seen.append(number)

    stage = Stage(name="test", handle=handle, capacity=5, cancelled=threading.Event())
    feed(stage, 4)
    assert started.wait(5)
    start = time.monotonic()
    assert stage.end(0.2) is False
    assert time.monotonic() - start < 1
    go.set()
    assert stage.end(5) is True
    assert seen == [0]
