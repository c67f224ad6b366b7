"""A clone of an image becomes another disk, and only what differs is written."""

import os
import random
import struct
from pathlib import Path
from uuid import uuid4

import pytest

from shared.host.errors import DiskImageError
from shared.ova import vdi_patching
from shared.ova.check import check_ova
from shared.ova.disk import Chain
from shared.ova.disk_reader import open_copy
from shared.ova.unpacking import Unpacker
from shared.ova.vdi_patching import PatchedVdi, punch_hole
from shared.ova.vdi_writing import BLOCK, VdiFile
from tests.support import copies as make
from tests.support.disk_files import Vdi

GRAIN = 65536
CAPACITY = 100
SIZE = CAPACITY * GRAIN
NAME = "vm-disk001.vmdk"


def grain(seed: int) -> bytes:
    return random.Random(seed).randbytes(GRAIN)


def image(path: Path, grains: dict[int, bytes]) -> None:
    """An image with these grains, in the order in which they are given."""
    with VdiFile(path, SIZE, uuid4()) as file:
        for number, data in grains.items():
            file.write(file.reserve(number * GRAIN), [data])
        file.finish()


def contents(grains: dict[int, bytes]) -> bytes:
    return b"".join(grains.get(number, bytes(GRAIN)) for number in range(CAPACITY))


def patch(folder: Path, path: Path, grains: dict[int, bytes]) -> int:
    """Makes the disk with these grains of an image, by a copy; returns what was written."""
    (folder / "x.ova").write_bytes(make.ova(make.vmdk(grains, CAPACITY)))
    with PatchedVdi(path, SIZE) as file, Unpacker(3) as unpacker:
        with open_copy(folder / "x.ova") as copy:
            file.zero_all_but(copy.disks[0].runs())
        sink = unpacker.disk(NAME, file)
        check_ova(folder, "x.ova", sinks={NAME: sink})
        sink.finish()
        return file.written


OLD = {90: grain(1), 3: grain(2), 4: grain(3), 17: grain(4), 18: grain(5)}
#: What the disk is to become, and how many bytes have to be written for it.
TABLE = {
    "what it is": (OLD, 0),
    "one grain differs": ({**OLD, 4: grain(9)}, GRAIN),
    "a grain in a block that was not there": ({**OLD, 60: grain(9)}, GRAIN),
    "zeros that the copy leaves out": ({90: OLD[90], 17: OLD[17]}, 3 * GRAIN),
    "zeros that stand in the copy": ({**OLD, 3: bytes(GRAIN)}, GRAIN),
    "nothing": ({}, 5 * GRAIN),
    "everything else": ({number: grain(100 + number) for number in range(CAPACITY)}, SIZE),
}


@pytest.mark.broad
@pytest.mark.parametrize("case", TABLE)
def test_it_is_what_the_copy_holds_and_no_more_was_written(tmp_path: Path, case: str) -> None:
    wanted, expected = TABLE[case]
    path = tmp_path / "x.vdi"
    image(path, OLD)
    with Chain.open([path]) as before:
        header = before.images[0].header
    written = patch(tmp_path, path, wanted)
    with Chain.open([path]) as chain:
        assert chain.beginning(SIZE) == contents(wanted)
        now = chain.images[0].header
    assert written == expected
    assert now.identifier == header.identifier
    assert now.modification != header.modification, "what stands on the old one is not its child"


def test_what_lies_behind_the_blocks_never_becomes_part_of_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "x.vdi"
    image(path, OLD)
    with path.open("ab") as file:
        file.write(b"old" * (BLOCK // 3) + b"o")
    patch(tmp_path, path, {**OLD, 60: grain(9)})
    with Chain.open([path]) as chain:
        assert chain.beginning(SIZE) == contents({**OLD, 60: grain(9)})


def test_zeros_are_holes_where_there_are_holes(tmp_path: Path) -> None:
    (probe := tmp_path / "probe").write_bytes(b"x" * GRAIN)
    with probe.open("r+b") as file:
        if not punch_hole(file.fileno(), 0, GRAIN):
            pytest.skip("this file system has no holes")
        assert os.fstat(file.fileno()).st_blocks == 0
    assert probe.read_bytes() == bytes(GRAIN)
    path = tmp_path / "x.vdi"
    image(path, OLD)
    before = path.stat().st_blocks
    patch(tmp_path, path, {90: OLD[90], 17: OLD[17]})
    assert path.stat().st_blocks < before


def test_without_holes_zeros_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vdi_patching, "punch_hole", lambda *_: False)
    path = tmp_path / "x.vdi"
    image(path, OLD)
    assert patch(tmp_path, path, {17: OLD[17]}) == 4 * GRAIN
    with Chain.open([path]) as chain:
        assert chain.beginning(SIZE) == contents({17: OLD[17]})


@pytest.mark.parametrize(
    "kind",
    [
        Vdi(SIZE, {0: bytes(BLOCK)}, BLOCK, kind=2),
        Vdi(SIZE, {0: bytes(GRAIN)}, GRAIN),
        Vdi(SIZE + BLOCK, {0: bytes(BLOCK)}, BLOCK),
    ],
)
def test_another_kind_of_image_is_refused_untouched(tmp_path: Path, kind: Vdi) -> None:
    path = tmp_path / "x.vdi"
    path.write_bytes(data := kind.render())
    with pytest.raises(DiskImageError):
        PatchedVdi(path, SIZE)
    assert path.read_bytes() == data
    assert struct.unpack_from("<I", data, 0x4C)[0] == kind.kind
