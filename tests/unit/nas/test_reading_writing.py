"""The door to the NAS: what is read is an ordinary file of bounded size, and no error is lost."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.nas import writing
from shared.nas.reading import open_file, read_file


def refusing(number: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a function of the system fail."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, refuse)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("act", [read_file, writing.sync_name])
@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)]
)
def test_only_ordinary_files_are_opened(
    tmp_path: Path, act: Callable[[Path], bytes], make: Callable[[Path], None]
) -> None:
    make(tmp_path / "x")
    with pytest.raises(OSError, match=r"ordinary file|symbolic links|Is a directory"):
        act(tmp_path / "x")


def test_no_more_is_read_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(3 << 20))
    assert len(read_file(tmp_path / "x", 100)) == 101
    assert len(read_file(tmp_path / "x", 2 << 20)) == (2 << 20) + 1
    assert len(read_file(tmp_path / "x")) == 3 << 20
    assert len(writing.sync_name(tmp_path / "x", 100)) == 101


def test_a_directory_that_is_a_link_is_refused_where_it_must_be_none(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"data")
    (tmp_path / "link").symlink_to("real")
    assert read_file(tmp_path / "link" / "x") == b"data"
    with pytest.raises(NotADirectoryError):
        open_file(tmp_path / "link" / "x", follow=False)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOENT, errno.EMFILE])
def test_a_name_that_cannot_be_opened_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "x").write_bytes(b"data")
    refusing(number, "open", monkeypatch)
    with pytest.raises(OSError, match=os.strerror(number)):
        writing.open_synced("x", foreign=True)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_rights_that_the_disk_did_not_take_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refusing(number, "fchmod", monkeypatch)
    with pytest.raises(OSError, match=os.strerror(number)):
        writing.create_file(tmp_path / "x", 0o666)
    assert not (tmp_path / "x").exists()


def test_a_mount_without_rights_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(errno.EPERM, "fchmod", monkeypatch)
    writing.write_new_file(tmp_path / "x", b"data")
    writing.make_directory(tmp_path / "d")
    assert stat.S_ISDIR((tmp_path / "d").stat().st_mode)
    assert (tmp_path / "x").read_bytes() == b"data"


def test_a_directory_of_ours_goes_and_what_links_in_it_lead_to_stays(tmp_path: Path) -> None:
    place, other = tmp_path / "place", tmp_path / "other"
    for directory in (place / "history/0000000", other):
        directory.mkdir(parents=True)
        (directory / "file").write_bytes(b"data")
    (place / "link").symlink_to(other)
    writing.remove_tree(place)
    assert not place.exists()
    assert (other / "file").exists()
    place.symlink_to(other)
    with pytest.raises(OSError, match=f"{os.strerror(errno.ENOTDIR)}|{os.strerror(errno.ELOOP)}"):
        writing.remove_tree(place)
    assert (other / "file").exists()


def test_what_is_nested_without_end_stays_and_ends_nobody(tmp_path: Path) -> None:
    """Whoever may write to the NAS makes as many levels as fit on it."""
    place = at = tmp_path / "place"
    for _ in range(50):
        at.mkdir()
        at /= "d"
    with pytest.raises(OSError, match="no program of ours"):
        writing.remove_tree(place)
    assert place.is_dir()
