"""Signals that end a program.

The first one counts, and the way out that it opens is not disturbed by others.
"""

import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from shared.host.signals import EndedError, ending_in_order

ALL = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ALL}
    for number in ALL:
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.product(ALL, ALL)), ids=lambda number: number.name
)
def test_a_second_signal_of_any_kind_does_not_disturb_the_way_out(
    first: signal.Signals, second: signal.Signals
) -> None:
    undone = []

    def work() -> None:
        try:
            os.kill(os.getpid(), first)
        finally:
            os.kill(os.getpid(), second)
            undone.append("all of it")

    with (
        pytest.raises(KeyboardInterrupt if first == signal.SIGINT else EndedError),
        ending_in_order(),
    ):
        work()
    assert undone == ["all of it"]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with ending_in_order():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is signal.SIG_IGN


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_comes_while_c_calls_back_is_not_lost(number: signal.Signals) -> None:
    """What a handler raises there is dropped: an export went on to its end after ^C."""

    class Dropping:
        def __del__(self) -> None:
            signal.raise_signal(number)

    expected = KeyboardInterrupt if number == signal.SIGINT else EndedError
    dropped, hook = [Dropping()], sys.unraisablehook

    def working() -> None:
        dropped.clear()
        for _ in range(500):
            time.sleep(0.01)

    with pytest.raises(expected), ending_in_order():
        working()
    assert sys.unraisablehook is hook
