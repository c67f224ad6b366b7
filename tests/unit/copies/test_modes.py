"""The rights that the configuration asks for."""

import stat
from pathlib import Path

import pytest

from shared.copies.files import NasFiles, modes_for, write_file


@pytest.mark.parametrize(
    ("shared", "file", "directory"), [(False, 0o640, 0o750), (True, 0o660, 0o2770)]
)
def test_modes(tmp_path: Path, shared: bool, file: int, directory: int) -> None:
    files = NasFiles(modes_for(shared_group=shared))
    files.make_directory(tmp_path / "vm")
    write_file(files, tmp_path / "vm", "x", b"")
    assert stat.S_IMODE((tmp_path / "vm").stat().st_mode) == directory
    assert stat.S_IMODE((tmp_path / "vm" / "x").stat().st_mode) == file
