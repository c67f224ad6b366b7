"""Tar headers that the standard library reads."""

import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ova.tar import END, member_header, padding


@given(st.integers(0, 2**60), st.integers(0, 8**11 - 1))
def test_every_size_is_read_back(size: int, modified: int) -> None:
    """From 8 GiB on the size is binary; nobody has to write that much to see it."""
    info = tarfile.TarInfo.frombuf(
        member_header("Büro & Co-disk001.vmdk", size, modified), "utf-8", "strict"
    )
    assert (info.name, info.size, info.mtime, info.mode, info.isreg()) == (
        "Büro & Co-disk001.vmdk",
        size,
        modified,
        0o640,
        True,
    )


@pytest.mark.parametrize(("size", "binary"), [(8 * 2**30 - 1, False), (8 * 2**30, True)])
def test_the_size_becomes_binary_at_8_gib(size: int, binary: bool) -> None:
    assert (member_header("a", size, 0)[124] == 0x80) is binary


def test_a_name_of_100_bytes_fits_and_one_more_is_refused() -> None:
    assert (
        tarfile.TarInfo.frombuf(member_header("ü" * 50, 1, 1), "utf-8", "strict").name == "ü" * 50
    )
    for name in ("x" * 101, ""):
        with pytest.raises(ValueError, match="does not fit"):
            member_header(name, 1, 1)


@given(st.integers(0, 5000))
def test_padding_fills_blocks(size: int) -> None:
    assert (size + len(padding(size))) % 512 == 0
    assert len(padding(size)) < 512
    assert len(END) == 1024
