import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.host.errors import CopyError
from shared.ova.vmdk import GRAIN_HEADER, SECTOR, VmdkHeader
from shared.ova.vmdk_check import VmdkCheck
from tests.support import copies as make
from tests.support.disk_files import VmdkReader

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


def flipped(where, bit):
    damaged = bytearray(DISK)
    damaged[where] ^= 1 << bit
    return bytes(damaged)


def is_found(damaged):
    """Whether the check refuses the disk. If it does not, an independent reader must find every
    grain as it was.
    """
    try:
        check(damaged)
    except CopyError:
        return True
    assert VmdkReader(damaged).grains() == VmdkReader(DISK).grains()
    return False


@settings(max_examples=300)
@given(st.integers(OVERHEAD_END, len(DISK) - 1), st.integers(0, 7))
@pytest.mark.slow
def test_every_flipped_bit_behind_the_descriptor_is_found_or_changes_nothing(where, bit):
    is_found(flipped(where, bit))


@pytest.mark.broad
def test_the_only_bits_that_change_nothing_fill_up_the_last_byte_of_a_compressed_grain():
    """A deflate stream ends at any bit; its checksum, four bytes, begins at the next whole byte."""
    lasts = [sector * 512 + 12 + size - 5 for sector, size in VmdkReader(DISK).packed_grains()]
    assert len(lasts) == len(GRAINS)
    for last in lasts:
        found = [is_found(flipped(last, bit)) for bit in range(8)]
        assert found == sorted(found, reverse=True), "from the end of the stream on"
        assert all(is_found(flipped(last + near, bit)) for near in (-1, 1) for bit in range(8))


@pytest.mark.broad
def test_every_byte_of_the_header_counts():
    for where in range(HEADER_END):
        damaged = bytearray(DISK)
        damaged[where] ^= 4
        with pytest.raises(CopyError):
            check(bytes(damaged))


@pytest.mark.broad
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


def test_grains_without_tables_are_refused_before_they_fill_the_memory():
    header = VmdkHeader((1 << 36) - 1, 1, grain=2048, table_grains=4096, overhead=1)
    grain = GRAIN_HEADER.pack(0, 1).ljust(SECTOR, b"x")
    disk = VmdkCheck("d", take=lambda *_: None)
    disk.update(header.render() + grain)
    disk.update(GRAIN_HEADER.pack(4095 * 2048, 1).ljust(SECTOR, b"x"))
    with pytest.raises(CopyError, match="no table names"):
        disk.update(GRAIN_HEADER.pack(4096 * 2048, 1).ljust(SECTOR, b"x"))


def test_a_disk_is_no_larger_than_what_its_reader_can_hold():
    """A list of the blocks of 2 PiB has 8 GiB."""
    VmdkHeader.parse(VmdkHeader(1 << 36, 1).render())
    with pytest.raises(ValueError, match="no header"):
        VmdkHeader.parse(VmdkHeader((1 << 36) + 1, 1, grain=2048, table_grains=4096).render())
