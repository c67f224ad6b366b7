"""The directories with clones: made for their owner, found again, and swept."""

import os
from pathlib import Path

import pytest

from shared.frozen import store
from shared.frozen.directory import CloneDirectory, known_directories
from shared.frozen.not_frozen import NotFrozenError
from shared.frozen.store import CloneStore, RoomLimit
from tests.support.file_systems import mounted

REPOSITORY, UUID = "0f0e0d0c-0b0a-4908-8706-050403020100", "6df1f3c0-7f0a-4e5c-a3c8-0123456789ab"


def directory(tmp_path: Path) -> CloneDirectory:
    (tmp_path / "vm").mkdir(exist_ok=True)
    return CloneDirectory.of(tmp_path / "state", tmp_path / "vm", REPOSITORY, UUID)


def known(tmp_path: Path, repository: str = REPOSITORY) -> list[Path]:
    return [each.path for each in known_directories(tmp_path / "state", repository)]


def test_it_is_for_its_owner_and_found_again(tmp_path: Path) -> None:
    made = directory(tmp_path)
    assert known(tmp_path) == []
    made.make()
    assert made.path == tmp_path / "vm" / ".vmbackup" / REPOSITORY / UUID
    for path in (made.path, made.path.parent, made.path.parent.parent):
        assert path.stat().st_mode & 0o777 == 0o700
    assert known(tmp_path) == [made.path]
    assert known(tmp_path, "another") == []


def test_only_clones_of_claims_that_are_gone_are_removed(tmp_path: Path) -> None:
    made = directory(tmp_path)
    made.make()
    for name in ("3-0.frozen", "3-1.frozen", "17-0.frozen"):
        (made.path / name).touch()
    made.remove(lambda claim: claim < 17)
    assert [claim for claim, _ in made.clones()] == [17]
    assert known(tmp_path) == [made.path]
    made.remove(lambda claim: True)
    assert not (tmp_path / "vm" / ".vmbackup").exists()
    assert known(tmp_path) == []


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    """And so do the directories of other repositories and VMs."""
    made = directory(tmp_path)
    made.make()
    for name in ("disk.vdi", "03-0.frozen", "3-0.frozen.vdi", "x"):
        (made.path / name).touch()
    made.remove(lambda claim: True)
    assert len(list(made.path.iterdir())) == 4
    assert known(tmp_path) == [made.path], "and it is looked at again"


def test_the_vm_s_folder_is_gone(tmp_path: Path) -> None:
    made = directory(tmp_path)
    made.make()
    (tmp_path / "vm").rename(tmp_path / "elsewhere")
    made.remove(lambda claim: True)
    assert known(tmp_path) == []


def test_a_disk_that_is_away_for_a_moment_does_not_lose_its_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mount point is there, on another file system."""
    made = directory(tmp_path)
    made.make()
    (made.path / "3-0.frozen").touch()
    (tmp_path / "vm").rename(tmp_path / "unmounted")
    note = made.note.read()
    made.note.write({**note, "device": tmp_path.stat().st_dev + 1})
    made.remove(lambda claim: True)
    assert known(tmp_path) == [made.path]
    (tmp_path / "unmounted").rename(tmp_path / "vm")
    made.remove(lambda claim: True)
    assert known(tmp_path) == []
    assert not (tmp_path / "vm" / ".vmbackup").exists()


def test_what_moved_is_noted_where_it_is_and_only_if_it_is_ours(tmp_path: Path) -> None:
    directory(tmp_path).make()
    (tmp_path / "vm").rename(tmp_path / "renamed")
    moved = CloneDirectory.of(tmp_path / "state", tmp_path / "renamed", REPOSITORY, UUID)
    link = CloneDirectory.of(tmp_path / "state", tmp_path / "link", REPOSITORY, UUID)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / ".vmbackup").symlink_to(tmp_path / "renamed" / ".vmbackup")
    nowhere = CloneDirectory.of(tmp_path / "state", tmp_path / "none", REPOSITORY, UUID)
    for each in (moved, link, nowhere):
        each.adopt()
    assert moved.path in known(tmp_path)
    assert not link.note.path.exists()
    assert not nowhere.note.path.exists()


def test_what_takes_the_room_is_removed_before_the_room_is_looked_at(tmp_path: Path) -> None:
    made = directory(tmp_path)
    made.make()
    (made.path / "3-0.frozen").touch()
    (tmp_path / "vm" / "a.vdi").touch()
    with pytest.raises(NotFrozenError, match="less than 100 % of the file system"):
        clone_store(tmp_path, tmp_path, percent=100).clone(tmp_path / "vm" / "a.vdi")
    assert list(made.clones()) == []


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_link_in_its_place_is_not_followed(tmp_path: Path, level: int) -> None:
    made = directory(tmp_path)
    (tmp_path / "other").mkdir()
    path = [made.path.parent.parent, made.path.parent, made.path][level]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(tmp_path / "other")
    with pytest.raises(NotFrozenError, match="is no directory of this user"):
        made.make()


def test_notes_that_say_something_else_are_passed_over(tmp_path: Path) -> None:
    made = directory(tmp_path)
    made.make()
    note = made.note.path
    for text in ("", "[]", '{"folder": "/etc", "uuid": "x"}', '{"folder": 1, "uuid": "x"}'):
        note.write_text(text)
        assert known(tmp_path) == []
    note.with_name("junk").mkdir()
    note.with_name(f"{REPOSITORY}-junk.json").mkdir()
    assert known(tmp_path) == []


def clone_store(tmp_path: Path, place: Path, percent: float = 0, claim: int = 17) -> CloneStore:
    (place / "vm").mkdir(exist_ok=True)
    return CloneStore(
        tmp_path / "state",
        REPOSITORY,
        UUID,
        home=place / "vm",
        claim=claim,
        limit=RoomLimit(percent),
    )


@pytest.mark.slow
def test_clones_lie_in_the_vm_s_folder_or_beside_the_disk(tmp_path: Path) -> None:
    """And what a worker that died left there is removed before."""
    with mounted("xfs", tmp_path) as place, mounted("btrfs", tmp_path) as other:
        before = clone_store(tmp_path, place, claim=3)
        made = clone_store(tmp_path, place)
        for folder in (place, other):
            (folder / "disks").mkdir()
            (folder / "disks" / "a.vdi").write_bytes(os.urandom(10_000))
        left = before.clone(place / "disks" / "a.vdi")
        first, second = (made.clone(folder / "disks" / "a.vdi") for folder in (place, other))
        assert not left.exists()
        assert first.is_relative_to(place / "vm" / ".vmbackup")
        assert second.is_relative_to(other / "disks" / ".vmbackup")
        for clone, folder in ((first, place), (second, other)):
            assert clone.read_bytes() == (folder / "disks" / "a.vdi").read_bytes()
        assert len(known(tmp_path)) == 2
        made.discard()
        assert known(tmp_path) == []
        assert not list(place.rglob("*.frozen")) + list(other.rglob("*.frozen"))
        made.discard()


@pytest.mark.slow
def test_a_disk_that_is_short_of_room_or_fragmented_is_not_cloned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted("xfs", tmp_path) as place:
        (place / "a.vdi").write_bytes(os.urandom(10_000))
        with pytest.raises(NotFrozenError, match="less than 100 % of the file system"):
            clone_store(tmp_path, place, percent=100).clone(place / "a.vdi")
        filled = clone_store(tmp_path, place, percent=50)
        filled.clone(place / "a.vdi")
        assert not filled.short_of_room()
        (place / "more").write_bytes(bytes(250 << 20))
        os.sync()
        assert filled.short_of_room()
        filled.discard()
        monkeypatch.setattr(store, "MOST_EXTENTS", 0)
        with pytest.raises(NotFrozenError, match="fragmented"):
            clone_store(tmp_path, place).clone(place / "a.vdi")
        assert not (place / "vm" / ".vmbackup").exists()
