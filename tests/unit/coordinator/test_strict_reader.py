"""A server that must say whether all could be read: it ends at the first read that fails."""

import time
from typing import NoReturn

import pytest

from coordinator.mounting.copy_server import StrictReader


class EndedError(Exception):
    """In place of the end of the server."""


def end(_status: int) -> NoReturn:
    """Ends no server, but the test's work with it."""
    raise EndedError


def test_what_is_read_is_given_on_and_a_read_that_fails_is_the_end() -> None:
    def read(name: str, offset: int, length: int) -> bytes:
        if offset:
            raise OSError("no such block")
        return name.encode()[:length]

    reader = StrictReader(read, end=end)
    assert reader.read("disk1.img", 0, 4) == b"disk"
    with pytest.raises(EndedError):
        reader.read("disk1.img", 512, 4)


def test_a_read_that_is_not_answered_for_long_is_the_end() -> None:
    """A NAS that hangs fails no read: a guest that waits for it would count as one that runs."""

    def read(_name: str, _offset: int, _length: int) -> bytes:
        began = time.monotonic()
        with pytest.raises(EndedError):
            reader.watch()
        assert time.monotonic() - began >= 0.05
        return b""

    reader = StrictReader(read, seconds=0.05, look_seconds=0.01, end=end)
    assert reader.read("disk1.img", 0, 4) == b""
