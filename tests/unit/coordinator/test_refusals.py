"""A guest whose NAS is away waits; one whose copy is damaged gets an error; none gets zeros."""

import errno
from typing import Any

import pytest

from coordinator.booting.read_errors import Refusals, number_of
from coordinator.mounting.steady_copy import GoneError
from shared.host.errors import CopyError, NasError
from shared.ova.vdi_writing import BLOCK


class Disk:
    """A disk that answers, or fails as it is told."""

    error: Exception | None = None

    def read(self, _offset: int, length: int) -> bytes:
        if self.error is not None:
            raise self.error
        return b"x" * length


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def refusals(disk: Any) -> Refusals:
    return Refusals({"a.vdi": disk})


def refused(refusals: Refusals, disk: Disk, error: Exception, offset: int = 3 * BLOCK) -> None:
    disk.error = error
    with pytest.raises(type(error)):
        refusals.read("a.vdi", offset, 512)
    disk.error = None


@pytest.mark.parametrize("error", [NasError("the NAS is away"), GoneError("another file")])
def test_a_guest_waits_until_it_has_read_that_very_block(
    refusals: Refusals, disk: Disk, error: Exception
) -> None:
    assert number_of(error) == errno.EPIPE
    refused(refusals, disk, error)
    assert refusals.problem == str(error)
    assert refusals.read("a.vdi", 5 * BLOCK, 512) == b"x" * 512
    assert refusals.problem
    refusals.read("a.vdi", 3 * BLOCK + 4096, 512)
    assert refusals.problem == ""


def test_one_that_is_started_anew_waits_for_nothing(refusals: Refusals, disk: Disk) -> None:
    refused(refusals, disk, NasError("away"))
    refusals.read("a.vdi", 0, 512)
    assert refusals.problem == ""


def test_that_another_disk_was_opened_anew_tells_nothing_of_this_one(disk: Any) -> None:
    refusals = Refusals({"a.vdi": disk, "b.vdi": disk})
    refused(refusals, disk, NasError("away"))
    refusals.read("b.vdi", 0, 512)
    assert refusals.problem == "away"


def test_one_that_was_switched_off_waits_for_nothing(refusals: Refusals, disk: Disk) -> None:
    """It has closed all that it had opened."""
    for _ in range(2):
        refusals.opened(1)
    refused(refusals, disk, NasError("away"))
    for change, problem in ((-1, "away"), (1, "away"), (0, "away"), (-1, "away"), (-1, "")):
        refusals.opened(change)
        assert refusals.problem == problem


@pytest.mark.parametrize("error", [CopyError("damaged"), OSError(5, "broken"), KeyError("b.vdi")])
def test_what_does_not_come_back_is_an_error_for_the_guest(
    refusals: Refusals, disk: Disk, error: Exception
) -> None:
    assert number_of(error) == errno.EIO
    refused(refusals, disk, error)
    assert refusals.problem == ""
