"""What this host remembers: whole or not at all, and one kind of error."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.host.documents import LIMIT, read_own
from shared.host.errors import ConfigurationError
from shared.host.notes import Note, write_flushed


def test_what_is_written_is_read_and_replaces_what_was_noted(tmp_path: Path) -> None:
    note = Note(tmp_path / "state" / "note.json", "it")
    assert note.read() == {}
    for document in ({"a": 1}, {"b": "two"}):
        note.write(document)
        assert note.read() == document
    assert os.listdir(tmp_path / "state") == ["note.json"]


@pytest.mark.parametrize("nonsense", [b"", b"{", b"[1]", b"\xff", b'{"a": NaN}', b"[" * 100_000])
def test_nonsense_is_no_note(tmp_path: Path, nonsense: bytes) -> None:
    note = Note(tmp_path / "note.json", "it")
    note.path.write_bytes(nonsense)
    assert note.read() == {}


def test_a_note_that_cannot_be_flushed_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = Note(tmp_path / "note.json", "which NAS this is")
    note.write({"a": 1})

    def refused(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(
        ConfigurationError, match=r"cannot remember which NAS this is in .*: No spa"
    ) as full:
        note.write({"a": 2})
    assert "make room on the file system" in full.value.hint
    assert note.read() == {"a": 1}
    assert os.listdir(tmp_path) == ["note.json"]


def test_its_name_is_brought_to_the_disk_after_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut takes the note away again."""
    note = Note(tmp_path / "state" / "note.json", "it")
    flushed = []

    def seen(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        flushed.append((path.is_dir(), note.path.exists()))
        if path.is_dir():
            raise OSError(errno.EINVAL, "this file system does not flush directories")

    monkeypatch.setattr(os, "fsync", seen)
    note.write({"a": 1})
    assert flushed == [(False, False), (True, True)]
    assert note.read() == {"a": 1}


def test_a_file_is_brought_to_the_disk_with_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The firmware variables of a VM that was restored are there after a power cut."""
    flushed = []

    def seen(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        flushed.append((path, path.stat().st_size if path.is_file() else 0))
        if path.is_dir():
            raise OSError(errno.EINVAL, "this file system does not flush directories")

    monkeypatch.setattr(os, "fsync", seen)
    write_flushed(tmp_path / "web01.nvram", b"variables")
    assert flushed == [(tmp_path / "web01.nvram", 9), (tmp_path, 0)]
    assert (tmp_path / "web01.nvram").read_bytes() == b"variables"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "plant",
    [os.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")],
    ids=["directory", "pipe", "device"],
)
def test_a_note_that_cannot_be_read_is_an_error_of_the_configuration(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    note = Note(tmp_path / "note.json", "it")
    plant(note.path)
    with pytest.raises(ConfigurationError, match="cannot read"):
        note.read()


def test_of_a_note_of_many_gigabytes_little_is_read(tmp_path: Path) -> None:
    note = Note(tmp_path / "note.json", "it")
    with note.path.open("wb") as file:
        file.truncate(40 << 30)
    assert len(read_own(note.path)) == LIMIT + 1
    assert note.read() == {}
