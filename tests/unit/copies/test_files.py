"""The copies' door to the NAS: what a disk's errors become, and the rights that files get."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.copies.copy_files import NasFiles, modes_for, write_file


def failing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE])
@pytest.mark.parametrize(
    "operation",
    [
        lambda place: NasFiles().rename(place, "x", "y"),
        lambda place: NasFiles().move(place, place / "z", "x"),
    ],
)
def test_a_name_that_the_disk_did_not_take_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, operation: Callable[[Path], None]
) -> None:
    (tmp_path / "z").mkdir()
    (tmp_path / "x").write_bytes(b"data")
    failing(number, monkeypatch)
    with pytest.raises(OSError, match=os.strerror(number)):
        operation(tmp_path)


def test_a_server_that_does_not_know_how_to_flush_a_name_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(b"data")
    failing(errno.EINVAL, monkeypatch)
    NasFiles().rename(tmp_path, "x", "y")
    assert (tmp_path / "y").read_bytes() == b"data"


def test_a_file_of_another_user_is_renamed_although_it_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(b"data")
    original = os.open

    def refuse(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return original(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    NasFiles().rename(tmp_path, "x", "y")
    assert (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("shared", "file", "directory"), [(False, 0o640, 0o750), (True, 0o660, 0o2770)]
)
def test_modes(tmp_path: Path, shared: bool, file: int, directory: int) -> None:
    files = NasFiles(modes_for(shared_group=shared))
    files.make_directory(tmp_path / "vm")
    write_file(files, tmp_path / "vm", "x", b"")
    assert stat.S_IMODE((tmp_path / "vm").stat().st_mode) == directory
    assert stat.S_IMODE((tmp_path / "vm" / "x").stat().st_mode) == file
