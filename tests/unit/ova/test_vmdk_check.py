import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.host.errors import CopyError
from shared.ova.vmdk_check import VmdkCheck
from tests.support import copies as make

GRAINS = {
    number: random.Random(number).randbytes(1000) * 66 for number in (0, 1, 5, 511, 600, 2047)
}
DISK = make.vmdk({number: data[:65536] for number, data in GRAINS.items()})
HEADER_END, OVERHEAD_END = 512, 128 * 512


def check(data, piece=1 << 20):
    disk = VmdkCheck("d")
    for start in range(0, len(data), piece):
        disk.update(data[start : start + piece])
    disk.finish()


@pytest.mark.parametrize("piece", [100, 512, 65537, 1 << 20])
def test_a_whole_disk_in_pieces_of_any_size(piece):
    check(DISK, piece)


@pytest.mark.parametrize(
    "disk",
    [
        make.vmdk({}),
        make.vmdk({7: b"\1" * 65536}, filler=True),
        make.vmdk({0: b"a" * 65536}, capacity_grains=3),
    ],
)
def test_other_whole_disks(disk):
    check(disk)


@settings(max_examples=300)
@given(st.integers(OVERHEAD_END, len(DISK) - 1), st.integers(0, 7))
def test_every_bit_behind_the_descriptor_counts(where, bit):
    damaged = bytearray(DISK)
    damaged[where] ^= 1 << bit
    with pytest.raises(CopyError):
        check(bytes(damaged))


def test_every_byte_of_the_header_counts():
    for where in range(HEADER_END):
        damaged = bytearray(DISK)
        damaged[where] ^= 4
        with pytest.raises(CopyError):
            check(bytes(damaged))


@settings(max_examples=100)
@given(st.integers(0, len(DISK) - 1))
def test_every_cut_is_found(length):
    with pytest.raises(CopyError):
        check(DISK[:length])


def test_bytes_behind_the_end_are_found():
    with pytest.raises(CopyError, match="goes on after its end"):
        check(DISK + bytes(512))


@settings(max_examples=100)
@given(st.binary(max_size=2000))
def test_any_bytes_behind_a_good_header(tail):
    with pytest.raises(CopyError):
        check(DISK[:OVERHEAD_END] + tail)
