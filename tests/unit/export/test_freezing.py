"""How often the room for clones is looked at while they are read."""

import time
from typing import TYPE_CHECKING, cast

import pytest

from shared.export.freezing import Freezer
from shared.virtualbox.export_errors import HostFullError

if TYPE_CHECKING:
    from shared.frozen.store import CloneStore


class Store:
    """Counts the looks."""

    def __init__(self, *, short: bool) -> None:
        self.short, self.looks = short, 0

    def short_of_room(self) -> bool:
        self.looks += 1
        return self.short


def freezer(store: Store) -> Freezer:
    return Freezer(cast("CloneStore", store), lambda clone: None)


def check_for_a_while(reading: Freezer) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        reading.check()


def test_room_is_not_looked_at_anew_before_each_megabyte() -> None:
    store = Store(short=False)
    reading = freezer(store)
    began = time.monotonic()
    for _ in range(2000):
        reading.check()
    assert 1 <= store.looks <= 1 + (time.monotonic() - began) / 0.1


def test_a_disk_that_fills_up_meanwhile_is_noticed_and_stays_so() -> None:
    store = Store(short=False)
    reading = freezer(store)
    reading.check()
    store.short = True
    with pytest.raises(HostFullError):
        check_for_a_while(reading)
    with pytest.raises(HostFullError):
        reading.check()


def test_without_room_from_the_beginning_nothing_is_read() -> None:
    with pytest.raises(HostFullError):
        freezer(Store(short=True)).check()
