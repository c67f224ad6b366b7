"""Clones of files on real file systems: what they are, and what they tell of each other."""

import fcntl
import os
import random
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from shared.frozen import comparison
from shared.frozen.comparison import Differences
from shared.frozen.extents import ENCODED, Extent, Span, count_extents, read_extents
from shared.frozen.not_frozen import NotFrozenError
from shared.frozen.reflink import clone
from tests.support.drawing import SEED, TOLD
from tests.support.file_systems import mounted, read_by_this_process
from tests.support.proving import only_when_proving
from tests.unit.frozen.churn import MIB, Churn

BLOCK = 4096
#: Shown with a failure; set it to repeat one.


def differences(old: Path, new: Path) -> Differences:
    with old.open("rb") as before, new.open("rb") as after:
        return Differences.between(before.fileno(), after.fileno())


def missed(old: Path, new: Path, found: Differences) -> list[int]:
    """Blocks that really differ and are not in what was found."""
    after = new.read_bytes()
    before = old.read_bytes()[: len(after)]
    told = bytearray(len(after) // BLOCK + 1)
    for span in found.spans:
        for number in range(span.start // BLOCK, -(-span.end // BLOCK)):
            told[number] = 1
    return [
        number
        for number in range(-(-len(after) // BLOCK))
        if not told[number]
        and before[number * BLOCK : number * BLOCK + BLOCK]
        != after[number * BLOCK : number * BLOCK + BLOCK]
    ]


@pytest.mark.slow
def test_a_clone_stays_what_the_file_was(reflinking: Path) -> None:
    source, target = reflinking / "disk.vdi", reflinking / "1.frozen"
    source.write_bytes(os.urandom(2 * MIB))
    before = source.read_bytes()
    clone(source, target)
    source.write_bytes(b"other")
    assert target.read_bytes() == before
    assert target.stat().st_mode & 0o777 == 0o400
    with pytest.raises(NotFrozenError, match="exists"):
        clone(source, target)
    assert target.read_bytes() == before, "and is not replaced"


@pytest.mark.slow
def test_a_file_system_without_reflinks_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    with mounted("ext4", tmp_path) as place:
        (place / "disk.vdi").write_bytes(b"1" * MIB)
        with pytest.raises(NotFrozenError, match=r"disk\.vdi cannot be cloned: "):
            clone(place / "disk.vdi", place / "1.frozen")
        assert not (place / "1.frozen").exists()
    with pytest.raises(NotFrozenError, match="No such file"):
        clone(tmp_path / "none", tmp_path / "1.frozen")


@pytest.mark.slow
def test_only_what_changed_is_found_and_nothing_is_read_for_it(plain: Path) -> None:
    """The fast way is taken: the kernel counts what was read."""
    source = plain / "disk.vdi"
    source.write_bytes(os.urandom(32 * MIB))
    clone(source, plain / "1.frozen")
    with source.open("r+b") as file:
        file.seek(5 * MIB + 100)
        file.write(b"!")
    clone(source, plain / "2.frozen")
    with (plain / "1.frozen").open("rb") as old, (plain / "2.frozen").open("rb") as new:
        before = read_by_this_process()
        found = Differences.between(old.fileno(), new.fileno())
        assert read_by_this_process() - before < MIB
    assert found == Differences((Span(5 * MIB, 5 * MIB + BLOCK),), 0)


@pytest.mark.slow
def test_clones_whose_blocks_are_just_moved_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A balance of btrfs may give a block of one to the other between two looks."""
    with mounted("xfs", tmp_path) as place:
        (place / "disk.vdi").write_bytes(os.urandom(MIB))
        for number in (1, 2):
            clone(place / "disk.vdi", place / f"{number}.frozen")
        right, looks = comparison.read_extents, iter(range(9))

        def moving(descriptor: int) -> Iterator[Extent]:
            moved = next(looks) * 4096
            for extent in right(descriptor):
                yield replace(extent, physical=extent.physical + moved)

        monkeypatch.setattr(comparison, "read_extents", moving)
        with pytest.raises(NotFrozenError, match="is moving the blocks"):
            differences(place / "1.frozen", place / "2.frozen")


@pytest.mark.slow
def test_compressed_extents_are_compared_by_their_bytes(tmp_path: Path) -> None:
    with mounted("btrfs-compressed", tmp_path) as place:
        source = place / "disk.vdi"
        source.write_bytes(b"compresses well " * (4 * MIB // 16))
        clone(source, place / "1.frozen")
        with source.open("r+b") as file:
            file.seek(MIB)
            file.write(b"!")
        clone(source, place / "2.frozen")
        with (place / "2.frozen").open("rb") as new:
            assert any(extent.flags & ENCODED for extent in read_extents(new.fileno()))
            assert count_extents(new.fileno()) == len(list(read_extents(new.fileno())))
        found = differences(place / "1.frozen", place / "2.frozen")
    assert found == Differences((Span(MIB, MIB + BLOCK),), 4 * MIB)


@pytest.mark.slow
def test_two_contents_of_which_the_file_system_says_the_same_are_told_apart(tmp_path: Path) -> None:
    """Parts of a compressed extent at another place in the file: FIEMAP does not show which."""

    def move(target: int, at: int, source: int, position: int) -> None:
        fcntl.ioctl(target, 0x4020940D, struct.pack("=qQQQ", source, position, 65536, at))

    with mounted("btrfs-compressed", tmp_path) as place, ExitStack() as stack:
        path = place / "disk.vdi"
        with path.open("wb") as file:
            for part in range(2):
                file.write(b"".join(b"%06d.." % (part * 100_000 + n) for n in range(8192)))
            file.flush()
            os.fsync(file.fileno())
        clone(path, place / "source")
        opened = stack.enter_context(path.open("r+b")).fileno()
        source = stack.enter_context((place / "source").open("rb")).fileno()
        move(opened, 0, opened, 65536)
        clone(path, place / "1.frozen")
        move(opened, 0, source, 0)
        clone(path, place / "2.frozen")
        found = differences(place / "1.frozen", place / "2.frozen")
        assert missed(place / "1.frozen", place / "2.frozen", found) == []
        assert found.spans, "they do differ"


def rounds(place: Path, seed: int, count: int) -> Iterator[tuple[Differences, list[int]]]:
    """What is found and missed after each of so many rounds of changes."""
    churn = Churn(place / "disk.vdi", random.Random(seed))
    clone(churn.path, place / "0.frozen")
    for number in range(count):
        for _ in range(random.Random(seed + number).randrange(25)):
            churn.step()
        old, new = place / f"{number}.frozen", place / f"{number + 1}.frozen"
        clone(churn.path, new)
        found = differences(old, new)
        yield found, missed(old, new, found)
        old.unlink()
    assert len(churn.done) > 10, churn.done


@pytest.mark.slow
def test_no_change_is_missed_whatever_changes_the_file(reflinking: Path) -> None:
    for number, (_found, lost) in enumerate(rounds(reflinking, SEED, 20)):
        assert lost == [], f"{TOLD}, round {number}"


@only_when_proving
def test_no_change_is_missed_in_many_rounds(reflinking: Path) -> None:
    for part in range(10):
        for number, (_found, lost) in enumerate(rounds(reflinking, SEED + 1000 * part, 200)):
            assert lost == [], f"VMBACKUP_SEED={SEED + 1000 * part}, round {number}"
        for path in reflinking.iterdir():
            path.unlink()
