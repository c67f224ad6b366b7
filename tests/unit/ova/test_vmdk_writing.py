"""What the VMDK writer lays out, an independent reader reads back."""

import sys
import zlib
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.host.errors import DiskImageError
from shared.ova.compression import best_codec, slowness, zlib_codec
from shared.ova.vmdk import GRAIN
from shared.ova.vmdk_units import CompressedUnit, UnitSettings, compress_unit
from shared.ova.vmdk_writing import VmdkLayout
from tests.support.disk_files import VmdkReader, pattern

CODEC = zlib_codec(1)


def write(size: int, parts: dict[int, bytes], *, position: int = 0, alignment: int = 512) -> bytes:
    layout = VmdkLayout(
        "x.vmdk", size, 0x1234ABCD, UUID(int=1), position=position, alignment=alignment
    )
    pieces = [layout.begin()]
    for start, data in sorted(parts.items()):
        pieces += layout.add(compress_unit(start, data, UnitSettings(CODEC, alignment=alignment)))
        if any(data):
            assert (position + layout.sectors * 512) % alignment == 0
    pieces += layout.end()
    assert layout.sectors * 512 == sum(map(len, pieces))
    return b"".join(pieces)


def expected(parts: dict[int, bytes]) -> dict[int, bytes]:
    """The grains of a disk with these parts, those of zeros left out, the last one filled up."""
    grains = {
        (position + offset) // GRAIN: data[offset : offset + GRAIN].ljust(GRAIN, b"\0")
        for position, data in parts.items()
        for offset in range(0, len(data), GRAIN)
    }
    return {number: grain for number, grain in grains.items() if any(grain)}


#: Units of 256 KiB by number: 0 is a unit of zeros, an even number one with a single grain, an odd
#: one is full.
disk_units = st.dictionaries(st.integers(0, 160), st.integers(0, 9), max_size=6)


def unit_bytes(seed: int) -> bytes:
    if seed % 2:
        return pattern(seed, 4 * GRAIN)
    return bytes(GRAIN) + (pattern(seed, GRAIN) if seed else bytes(GRAIN)) + bytes(2 * GRAIN)


@pytest.mark.broad
@settings(max_examples=60)
@given(disk_units, st.integers(0, 8), st.sampled_from((512, 4096)), st.integers(0, 511))
def test_a_disk_reads_back(
    units: dict[int, int], position: int, alignment: int, missing_sectors: int
) -> None:
    """Sparse disks over several tables (32 MiB each), with whole and partly empty units, ending
    anywhere; aligned or not.
    """
    size = 161 * 4 * GRAIN - missing_sectors * 512
    parts = {
        number * 4 * GRAIN: unit_bytes(seed)[: size - number * 4 * GRAIN]
        for number, seed in units.items()
    }
    assert VmdkReader(
        write(size, parts, position=512 * position, alignment=alignment)
    ).grains() == expected(parts)


def test_units_of_zeros_are_passed_over() -> None:
    assert list(VmdkLayout("x", 2**20, 0, UUID(int=1)).add(CompressedUnit())) == []


def test_an_empty_disk_has_a_header_a_directory_and_a_footer_only() -> None:
    data = write(8 * 2**20, {})
    assert len(data) == (128 + 1 + 1 + 1 + 1 + 1) * 512  # as VirtualBox's own
    assert VmdkReader(data).disk(8 * 2**20) == bytes(8 * 2**20)


def test_tables_of_a_disk_that_starts_empty() -> None:
    size = 200 * 2**20
    parts = {70 * 2**20: pattern(1, GRAIN), 199 * 2**20: pattern(2, GRAIN)}
    reader = VmdkReader(write(size, parts))
    assert reader.grains() == expected(parts)
    assert sorted(reader.along_markers()) == [70 * 16, 199 * 16]


def test_the_descriptor_says_the_size_in_sectors_and_the_grain_count_is_rounded_up() -> None:
    reader = VmdkReader(write(20_000_256, {}))
    assert 'RDONLY 39063 SPARSE "x.vmdk"' in reader.descriptor
    assert "CID=1234abcd" in reader.descriptor
    assert 'ddb.geometry.cylinders="38"' in reader.descriptor
    assert 'ddb.uuid.image="00000000-0000-0000-0000-000000000001"' in reader.descriptor
    assert reader.capacity == 39168


def test_a_disk_beyond_what_tables_can_address_is_refused() -> None:
    layout = VmdkLayout("x.vmdk", 2**42, 0, UUID(int=1))
    layout.sectors = 2**32 - 100
    with pytest.raises(DiskImageError, match="2 TiB"):
        list(layout.add(compress_unit(0, bytes(range(256)) * 256, UnitSettings(zlib_codec(0)))))


@pytest.mark.parametrize(
    ("missing", "name"),
    [
        ((), "isal 2"),
        (("deflate",), "isal 2"),
        (("isal",), "libdeflate 1"),
        (("isal", "deflate"), "zlib 1"),
    ],
)
def test_the_best_codec_that_is_there_makes_zlib_streams_and_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], name: str
) -> None:
    for package in missing:
        monkeypatch.setitem(sys.modules, package, None)
    codec = best_codec()
    assert codec.name == name
    assert ("pip install isal" in slowness(name)) == ("isal" in missing)
    for data in (pattern(3, GRAIN), bytes(GRAIN), b"x"):
        assert zlib.decompress(codec.compress(memoryview(data))) == data
        assert codec.decompress(zlib.compress(data)) == data
