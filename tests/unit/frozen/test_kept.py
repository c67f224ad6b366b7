"""The note of the clones that are kept: whole, and true, wherever its worker dies."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.frozen import store
from shared.frozen.directory import known_directories
from shared.frozen.kept_clones import KeptClones, KeptNote
from shared.frozen.store import CloneStore, RoomLimit

REPOSITORY, UUID = "0f0e0d0c-0b0a-4908-8706-050403020100", "6df1f3c0-7f0a-4e5c-a3c8-0123456789ab"


class Died(BaseException):
    """The process is gone."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A VM's folder with a disk. Clones are plain copies here."""
    monkeypatch.setattr(store, "clone", shutil.copyfile)
    monkeypatch.setattr(store, "count_extents", lambda _: 1)
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "disk.vdi").write_bytes(b"first")
    return tmp_path / "vm"


def clones(home: Path, claim: int) -> CloneStore:
    return CloneStore(
        home.parent / "state", REPOSITORY, UUID, home=home, claim=claim, limit=RoomLimit(0)
    )


def back_up(home: Path, claim: int) -> None:
    """What a backup does with clones, with all else left out."""
    made = clones(home, claim)
    clone = made.clone(home / "disk.vdi")
    made.keep(f"stamp-{claim}", "0" * 64, {"SATA-0-0": [clone]})
    made.discard()


def note(home: Path) -> KeptNote:
    return KeptNote(home.parent / "state", REPOSITORY, UUID)


def require_true(home: Path) -> KeptClones:
    """What is noted is there, and is what was cloned for that copy."""
    kept = note(home).read()
    assert kept is not None
    for (image,) in kept.disks.values():
        with open(image.path, "rb") as file:
            assert image.is_file(file.fileno())
            assert file.read() == {"stamp-1": b"first", "stamp-2": b"second"}[kept.stamp]
    return kept


def dying(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Lets the process die before its `at`-th change of the disk; the list counts them."""
    count = [0]

    def guarded(right: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            count[0] += 1
            if count[0] > at:
                raise Died
            return right(*arguments, **named)

        return call

    for name in ("mkdir", "unlink", "rmdir", "rename", "replace", "fsync"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    for name in ("unlink", "rmdir", "replace", "mkdir"):
        monkeypatch.setattr(Path, name, guarded(getattr(Path, name)))
    monkeypatch.setattr(store, "clone", guarded(store.clone))
    return count


@pytest.mark.broad
def test_wherever_a_worker_dies_what_is_noted_is_true(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0
    for at in range(200):
        shutil.rmtree(home.parent / "state", ignore_errors=True)
        shutil.rmtree(home / ".vmbackup", ignore_errors=True)
        (home / "disk.vdi").write_bytes(b"first")
        back_up(home, 1)
        (home / "disk.vdi").write_bytes(b"second")
        with monkeypatch.context() as patched:
            count = dying(patched, at)
            try:
                back_up(home, 2)
            except Died:
                steps += 1
        kept = require_true(home)
        directories = list(known_directories(home.parent / "state", REPOSITORY))
        assert directories, "it is found again"
        for directory in directories:
            directory.remove(lambda _: True, kept.paths)
        assert set(home.rglob("*.frozen")) == kept.paths
        require_true(home)
        if count[0] <= at:
            break
    assert steps > 8
    assert kept.stamp == "stamp-2"


def test_nonsense_counts_as_nothing_kept(home: Path) -> None:
    back_up(home, 1)
    path = next((home.parent / "state" / "frozen").glob("*.kept"))
    for text in ("", "{}", "[]", '{"stamp": "x", "index": "y", "disks": {}}', "\0" * 100):
        path.write_text(text)
        assert note(home).read() is None


def test_a_failed_backup_leaves_what_was_kept(home: Path) -> None:
    back_up(home, 1)
    made = clones(home, 2)
    made.clone(home / "disk.vdi")
    made.discard()
    assert require_true(home).stamp == "stamp-1"
    assert len(list(home.rglob("*.frozen"))) == 1
