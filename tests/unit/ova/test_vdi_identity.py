"""The clone of an image gets a UUID of its own, and stands on the clone of its parent."""

from pathlib import Path
from uuid import uuid4

import pytest

from shared.host.errors import DiskImageError
from shared.ova.disk import Chain
from shared.ova.vdi import VdiImage
from shared.ova.vdi_header import give_identity
from shared.ova.vdi_writing import VdiFile

MIB = 1 << 20


def test_a_base_has_another_uuid_and_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.vdi"
    with VdiFile(path, 3 * MIB, uuid4()) as file:
        file.write(file.reserve(MIB), [b"x" * 512])
        file.finish()
    before, own = path.read_bytes(), uuid4()
    header = give_identity(path, own, None)
    assert header.identifier == own
    after = path.read_bytes()
    assert (after[:0x188], after[0x198:]) == (before[:0x188], before[0x198:])


def test_a_child_notes_its_parent_whatever_it_noted_before(tmp_path: Path) -> None:
    base, child = tmp_path / "base.vdi", tmp_path / "child.vdi"
    for path in (base, child):
        with VdiFile(path, 3 * MIB, uuid4()) as file:
            file.write(file.reserve(MIB), [path.name.encode()])
            file.finish()
    data = bytearray(child.read_bytes())
    data[0x4C] = 4
    data[0x1A8:0x1C8] = uuid4().bytes_le + uuid4().bytes_le
    child.write_bytes(data)
    parent = give_identity(base, uuid4(), None)
    give_identity(child, uuid4(), parent)
    with Chain.open([child, base]) as chain:
        assert chain.links == frozenset()
        assert chain.beginning(MIB + 5)[MIB:] == b"child"
    with pytest.raises(DiskImageError, match="another parent"):
        give_identity(child, uuid4(), None)
    with VdiImage.open(child) as image:
        assert image.header.parent == parent.identifier
