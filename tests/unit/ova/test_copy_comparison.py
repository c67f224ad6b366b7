"""What differs between two copies: by indexes and by contents, which say the same."""

from pathlib import Path

import pytest

from shared.ova import copy_comparison
from shared.ova.copy_comparison import DiskDifference
from shared.ova.disk_reader import DamagedBlockError, open_copy
from tests.support import engine_copies
from tests.support.disk_files import Vdi

GRAIN = 65536
WHOLE = 64 * GRAIN


def copy(folder: Path, name: str, images: dict[str, Vdi]) -> engine_copies.Copy:
    return engine_copies.make(folder, name, images)


def compared(old: engine_copies.Copy, new: engine_copies.Copy) -> list[DiskDifference]:
    """By both ways, which must agree."""
    with open_copy(old.ova) as before, open_copy(new.ova) as after:
        assert copy_comparison.why_read(before, after) == ""
        told: list[tuple[int, int]] = []
        by_contents = copy_comparison.compare_contents(
            before, after, lambda done, total: told.append((done, total))
        )
        assert all(done <= total for done, total in told)
        assert copy_comparison.compare_indexes(before, after) == by_contents
    return by_contents


@pytest.mark.broad
def test_blocks_that_changed_appeared_and_vanished(tmp_path: Path) -> None:
    old = copy(tmp_path, "old", {"SATA-0-0": engine_copies.disk()})
    changed = engine_copies.disk(b3=7, b4=8, b9=0, b50=5)
    new = copy(tmp_path, "new", {"SATA-0-0": changed})
    (found,) = compared(old, new)
    assert (found.changed, found.appeared, found.vanished) == (2, 1, 1)
    assert (found.blocks, found.bytes) == (4, 4 * GRAIN)
    assert (found.size_before, found.size_after) == (WHOLE, WHOLE)


@pytest.mark.broad
def test_the_same_copy_twice_differs_in_nothing(tmp_path: Path) -> None:
    made = copy(tmp_path, "old", {"SATA-0-0": engine_copies.disk()})
    assert [found.blocks for found in compared(made, made)] == [0]


@pytest.mark.broad
def test_a_disk_that_was_added_and_one_that_grew(tmp_path: Path) -> None:
    old = copy(tmp_path, "old", {"A": engine_copies.disk()})
    larger = Vdi(WHOLE + 4 * 1024, engine_copies.disk().blocks)
    new = copy(tmp_path, "new", {"A": larger, "B": engine_copies.disk()})
    first, second = compared(old, new)
    assert (first.blocks, first.size_after) == (0, WHOLE + 4 * 1024)
    assert (second.size_before, second.appeared) == (None, 40)


@pytest.mark.broad
def test_without_an_index_of_its_own_a_copy_is_read(tmp_path: Path) -> None:
    old = copy(tmp_path, "old", {"A": engine_copies.disk()})
    new = copy(tmp_path, "new", {"A": engine_copies.disk(b1=5)})
    new.index.unlink()
    with open_copy(old.ova) as before, open_copy(new.ova) as after:
        assert "new.ova: there is no index of it" in copy_comparison.why_read(before, after)
        (found,) = copy_comparison.compare_contents(before, after, lambda _done, _total: None)
        assert (found.changed, found.blocks) == (1, 1)
    data = bytearray(new.ova.read_bytes())
    data[data.index(b"KDMV") + 128 * 512 + 100] ^= 1
    new.ova.write_bytes(data)
    with (
        open_copy(old.ova) as before,
        open_copy(new.ova) as after,
        pytest.raises(DamagedBlockError),
    ):
        copy_comparison.compare_contents(before, after, lambda _done, _total: None)
