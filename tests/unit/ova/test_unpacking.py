"""Disks of a copy become files while the copy is read once and checked."""

import os
import random
import resource
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from shared.host.errors import CopyError
from shared.ova.check import check_ova
from shared.ova.compression import best_inflate, fastest_inflate
from shared.ova.disk import Chain
from shared.ova.unpacking import Unpacker
from shared.ova.vdi_writing import BLOCK, DiskFile, RawFile, TargetError, VdiFile
from tests.support import copies as make

GRAIN = 65536
CAPACITY = 100
GRAINS = {
    number: (random.Random(number).randbytes(700) * 100)[:GRAIN]
    for number in (0, 1, 2, 5, 15, 16, 40, 99)
}
DISK = b"".join(GRAINS.get(number, bytes(GRAIN)) for number in range(CAPACITY))
NAME = "vm-disk001.vmdk"


def unpack(folder: Path, file: DiskFile, disk: bytes, damage: int = -1) -> None:
    data = bytearray(make.ova(disk))
    if damage >= 0:
        data[data.index(b"KDMV") + damage] ^= 1
    (folder / "x.ova").write_bytes(data)
    with file, Unpacker(3) as unpacker:
        sink = unpacker.disk(NAME, file)
        check_ova(folder, "x.ova", sinks={NAME: sink})
        sink.finish()


def test_an_image_is_what_the_copy_holds(tmp_path: Path) -> None:
    path, identifier = tmp_path / "x.vdi", uuid4()
    unpack(tmp_path, VdiFile(path, len(DISK), identifier), make.vmdk(GRAINS, CAPACITY))
    with Chain.open([path]) as chain:
        assert chain.beginning(len(DISK)) == DISK
        assert chain.images[0].header.identifier == identifier
        assert chain.images[0].header.allocated == 4


def test_a_raw_disk_has_holes_where_there_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    zeros = {**GRAINS, 50: bytes(GRAIN), 51: bytes(GRAIN)}  # a block of zeros in the copy as well
    unpack(tmp_path, RawFile(path, len(DISK)), make.vmdk(zeros, CAPACITY))
    assert path.read_bytes() == DISK
    assert path.stat().st_blocks * 512 < len(GRAINS) * GRAIN + BLOCK


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is told to begin")
def test_what_is_written_is_brought_to_the_disk_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = set[int]()

    def advise(_: int, place: int, length: int, advice: int) -> None:
        if advice == os.POSIX_FADV_DONTNEED:
            begun.update(range(place // GRAIN, (place + length) // GRAIN))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    unpack(tmp_path, RawFile(tmp_path / "x", len(DISK)), make.vmdk(GRAINS, CAPACITY))
    assert begun == set(GRAINS)


@pytest.mark.parametrize("make_inflate", [best_inflate, fastest_inflate])
@pytest.mark.parametrize(
    ("stream", "good"),
    [
        (zlib.compress(b"x" * GRAIN), True),
        (zlib.compress(b"x" * 9), True),
        (zlib.compress(b"x" * (GRAIN + 1)), False),
        (zlib.compress(bytes(50 << 20)), False),
        (zlib.compress(b"x" * GRAIN)[:-1], False),
        (zlib.compress(b"x" * GRAIN)[:-4] + b"sums", False),
        (b"none", False),
        (b"", False),
    ],
)
def test_one_stream_is_inflated_and_no_more_than_a_grain(
    make_inflate: Callable[[], Callable[[bytes, int], bytes]], stream: bytes, *, good: bool
) -> None:
    inflate = make_inflate()
    if good:
        assert inflate(stream, GRAIN) == zlib.decompress(stream)
        return
    tracemalloc.start()
    with pytest.raises(ValueError, match="it "):
        inflate(stream, GRAIN)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("damage", [3, 40_000, 70_000])
def test_damage_is_found_in_the_same_pass(tmp_path: Path, damage: int) -> None:
    with pytest.raises(CopyError):
        unpack(
            tmp_path,
            VdiFile(tmp_path / "x", len(DISK), uuid4()),
            make.vmdk(GRAINS, CAPACITY),
            damage,
        )


@pytest.mark.broad
def test_a_bomb_is_an_error(tmp_path: Path) -> None:
    grains = {**GRAINS, 3: bytes(20 << 20)}
    with pytest.raises(CopyError, match="block"):
        unpack(tmp_path, RawFile(tmp_path / "x", len(DISK)), make.vmdk(grains, CAPACITY))


def test_a_block_behind_the_end_of_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CopyError, match="does not fit"):
        unpack(tmp_path, RawFile(tmp_path / "x", 99 * GRAIN), make.vmdk(GRAINS, CAPACITY))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    (tmp_path / "y").symlink_to(tmp_path / "z")
    for name in ("x", "y"):
        with pytest.raises(TargetError, match="File exists"):
            RawFile(tmp_path / name, 512)
    assert (tmp_path / "x").read_bytes() == b"mine"
    assert not (tmp_path / "z").exists()


@pytest.fixture
def small_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_is_no_damage_of_the_copy(
    tmp_path: Path, small_files: None
) -> None:
    with pytest.raises(TargetError, match=r"cannot write .*File too large"):
        unpack(tmp_path, RawFile(tmp_path / "x", len(DISK)), make.vmdk(GRAINS, CAPACITY))
