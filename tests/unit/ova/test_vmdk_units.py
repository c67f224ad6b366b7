"""How units are compressed and laid out, also of what the copy before has."""

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.host.errors import CopyError
from shared.ova import vmdk
from shared.ova.compression import Codec, best_codec, zlib_codec
from shared.ova.grain_columns import GrainColumns
from shared.ova.vmdk import GRAIN, SECTOR
from shared.ova.vmdk_units import (
    CompressedUnit,
    PlacedRun,
    TakenRun,
    UnitSettings,
    compress_unit,
    mixed_unit,
)
from tests.support.disk_files import pattern

CODEC = zlib_codec(1)


def test_a_grain_that_inflates_to_something_else_is_found() -> None:
    broken = Codec("broken", lambda data: zlib.compress(bytes(data[:-1]) + b"?"), zlib.decompress)
    with pytest.raises(CopyError, match="byte 65536"):
        compress_unit(0, bytes(GRAIN) + pattern(1, GRAIN), UnitSettings(broken))
    with pytest.raises(CopyError, match="byte 131072"):
        mixed_unit({2: pattern(1, GRAIN)}, [], UnitSettings(broken))
    (run,) = compress_unit(0, pattern(1, GRAIN), UnitSettings(broken, self_check=False)).runs
    assert run == PlacedRun(GrainColumns((0,), (0,), (89,)))


def test_units_of_zeros_take_no_space() -> None:
    assert compress_unit(0, bytes(16 * GRAIN), UnitSettings(CODEC)) == CompressedUnit()
    assert mixed_unit({3: bytes(GRAIN)}, [], UnitSettings(CODEC)) == CompressedUnit()


def test_incompressible_data_stays_within_the_growth_that_eligibility_counts_with() -> None:
    noise = random.Random(1).randbytes(16 * GRAIN)
    for codec in (best_codec(), zlib_codec(1)):
        assert len(compress_unit(0, noise, UnitSettings(codec)).data) < 1.011 * len(noise)
    assert vmdk.LARGEST_BYTES == 2**41 - 512


#: Grains of a block: those that changed with what they hold, and those that the copy before has
#: with their lengths; what is in neither is zeros.
blocks = st.lists(
    st.one_of(st.none(), st.integers(1, 130), st.binary(min_size=1, max_size=3)),
    min_size=16,
    max_size=16,
)


@given(blocks, st.integers(0, 5000), st.sampled_from([512, 4096, 65536]))
def test_a_unit_of_which_the_copy_before_has_a_part(
    block: list[int | bytes | None], source: int, alignment: int
) -> None:
    """What was compressed is what it is in a unit of its own; each run that follows it lies to the
    blocks as its source does.
    """
    changed = {32 + at: data * 99 for at, data in enumerate(block) if isinstance(data, bytes)}
    kept = [(32 + at, length) for at, length in enumerate(block) if isinstance(length, int)]
    places = [source + sum(length for _, length in kept[:at]) for at in range(len(kept))]
    before = GrainColumns(
        tuple(number for number, _ in kept),
        tuple(places),
        tuple(length for _, length in kept),
        tuple(bytes([number]) for number, _ in kept),
    )
    taken = [TakenRun(run.sectors[0], run) for run in before.runs()]
    settings = UnitSettings(CODEC, digest=lambda data: bytes(data)[:20], alignment=alignment)
    unit = mixed_unit(changed, taken, settings)
    assert unit.sectors * SECTOR % alignment == 0
    at = end = 0
    for number, run in enumerate(unit.runs):
        assert run.grains.sectors[0] == end, f"run {number} does not follow the one before"
        end += sum(run.grains.lengths)
        if run.source is None:
            at += run.length
            after = unit.runs[number + 1 :]
            like = after[0].source if after else 0
            assert like is not None
            assert (end - like) * SECTOR % alignment == 0
    assert unit.sectors == end + (len(unit.data) - at) // SECTOR
    assert_grains(unit, changed, dict(kept))


def assert_grains(unit: CompressedUnit, changed: dict[int, bytes], kept: dict[int, int]) -> None:
    """All grains but zeros are there once, in the order of the disk."""
    held = {number: data for number, data in changed.items() if any(data)}
    numbers = [number for run in unit.runs for number in run.grains.numbers]
    assert numbers == sorted(held | kept)
    at = 0
    for run in unit.runs:
        for number, _, length, digest in zip(*run.grains, strict=True):
            if run.source is not None:
                assert (length, digest) == (kept[number], bytes([number]))
                continue
            piece, at = unit.data[at : at + length * SECTOR], at + length * SECTOR
            assert digest == piece[:20]
            sector, size = vmdk.GRAIN_HEADER.unpack_from(piece)
            assert sector == number * GRAIN // SECTOR
            start = vmdk.GRAIN_HEADER.size
            assert CODEC.decompress(piece[start : start + size]) == held[number].ljust(GRAIN, b"\0")
