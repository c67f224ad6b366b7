"""The VDI reader reads what is there, and refuses what is damaged."""

import os
import struct
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.host.errors import DiskImageError
from shared.ova.disk import Chain
from shared.ova.vdi import VdiImage
from shared.ova.vdi_header import parse_header
from tests.support.disk_files import FREE, ZERO, Vdi, content, pattern

BLOCK = 65536
fuzzing = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_all(chain: Chain) -> bytes:
    disk = bytearray(chain.size)
    for block in chain.blocks():
        data = block.read()
        assert len(data) == block.length
        disk[block.position : block.position + block.length] = data
    return bytes(disk)


def open_bytes(path: Path, data: bytes) -> bytes:
    path.write_bytes(data)
    with Chain.open([path]) as chain:
        return read_all(chain)


def small() -> Vdi:
    """Four blocks: free, data, zeros, data."""
    return Vdi(4 * BLOCK, {1: pattern(1, BLOCK), 2: ZERO, 3: pattern(3, BLOCK)})


def full() -> Vdi:
    return Vdi(4 * BLOCK, {number: pattern(number, BLOCK) for number in range(4)})


@pytest.mark.parametrize("kind", [1, 2])
def test_reads_dynamic_and_fixed_images(tmp_path: Path, kind: int) -> None:
    image = full()
    image.kind = kind
    assert open_bytes(tmp_path / "a.vdi", image.render()) == content([image])


def test_free_and_zero_blocks_of_a_base_are_zeros(tmp_path: Path) -> None:
    image = small()
    with Chain.open([image.write(tmp_path / "a.vdi")]) as chain:
        assert [block.position // BLOCK for block in chain.blocks()] == [1, 3]
        assert chain.data_bytes() == 2 * BLOCK
        assert chain.beginning(BLOCK + 5) == content([image])[: BLOCK + 5]


def test_last_block_ends_with_the_disk(tmp_path: Path) -> None:
    image = Vdi(2 * BLOCK + 512, {2: pattern(7, 512)})
    with Chain.open([image.write(tmp_path / "a.vdi")]) as chain:
        assert chain.data_bytes() == 512
        assert read_all(chain) == content([image])


#: What is in the blocks of each image: 0 stands for zeros, another number for the bytes of that
#: pattern.
LAYERS = st.lists(st.dictionaries(st.integers(0, 7), st.integers(0, 9)), min_size=1, max_size=4)


@pytest.mark.broad
@fuzzing
@given(LAYERS, st.integers(7 * BLOCK // 512 + 1, 8 * BLOCK // 512))
def test_a_chain_reads_as_the_guest_sees_it(
    tmp_path: Path, layers: list[dict[int, int]], sectors: int
) -> None:
    images: list[Vdi] = []
    for seeds in layers:
        kept = {number: pattern(seed, BLOCK) if seed else ZERO for number, seed in seeds.items()}
        images.insert(0, images[0].child(kept) if images else Vdi(sectors * 512, kept))
    paths = [image.write(tmp_path / f"{number}.vdi") for number, image in enumerate(images)]
    with Chain.open(paths) as chain:
        assert read_all(chain) == content(images)
        assert chain.beginning(100_000) == content(images)[:100_000]


@pytest.mark.broad
@fuzzing
@given(st.integers(0, 3), st.integers(0, 2**32 - 1) | st.integers(0, 8))
def test_a_wrong_map_entry_is_refused_or_only_frees_its_block(
    tmp_path: Path, index: int, entry: int
) -> None:
    """All places are taken: whatever else an entry names is another block's place, or none."""
    image = full()
    data = bytearray(image.render())
    before = struct.unpack_from("<I", data, image.map_offset + 4 * index)[0]
    struct.pack_into("<I", data, image.map_offset + 4 * index, entry)
    if entry == before:
        expected = content([image])
    elif entry in (FREE, ZERO):
        del image.blocks[index]
        expected = content([image])
    else:
        with pytest.raises(DiskImageError, match="block"):
            open_bytes(tmp_path / "a.vdi", bytes(data))
        return
    assert open_bytes(tmp_path / "a.vdi", bytes(data)) == expected


@pytest.mark.broad
@fuzzing
@given(st.integers(0x40, 0x1C7), st.integers(1, 255))
def test_a_damaged_header_byte_is_refused_or_changes_nothing(
    tmp_path: Path, offset: int, flip: int
) -> None:
    """The one thing that no reader can find out is a disk that ends some sectors earlier, in the
    same last block.
    """
    image = full()
    data = bytearray(image.render())
    data[offset] ^= flip
    try:
        found = open_bytes(tmp_path / "a.vdi", bytes(data))
    except DiskImageError:
        return
    assert found == content([image])[: len(found)]
    assert len(found) == image.size or (0x170 <= offset < 0x178 and len(found) > image.size - BLOCK)


@pytest.mark.broad
@fuzzing
@given(st.binary(min_size=512, max_size=512))
def test_no_noise_is_taken_for_a_header(data: bytes) -> None:
    with pytest.raises(DiskImageError):
        parse_header(data)
    with pytest.raises(DiskImageError):
        parse_header(data[:0x40] + struct.pack("<4I", 0xBEDA107F, 0x10001, 400, 1) + data[0x50:])


@pytest.mark.broad
@fuzzing
@given(st.data())
def test_a_truncated_file_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = full().render()
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(DiskImageError):
        open_bytes(tmp_path / "a.vdi", whole[:length])


@pytest.mark.parametrize(
    ("offset", "form", "value", "reason"),
    [
        (0x40, "<I", 0xBEDA107E, "no VDI"),
        (0x44, "<I", 0x00020000, "version 2.0"),
        (0x48, "<I", 100, "header of 100"),
        (0x48, "<I", 2000, "header of 2000"),
        (0x4C, "<I", 3, "type 3"),
        (0x4C, "<I", 4, "parent contradict"),
        (0x154, "<I", 100, "map at 100"),
        (0x158, "<I", 512, "inside of the block map"),
        (0x168, "<I", 4096, "sectors of 4096"),
        (0x170, "<Q", 0, "disk of 0"),
        (0x170, "<Q", 4 * BLOCK - 1, "disk of"),
        (0x170, "<Q", 2**63, "blocks for a disk"),
        (0x178, "<I", 65537, "blocks of 65537"),
        (0x178, "<I", 32768, "blocks of 32768"),
        (0x178, "<I", 2**21, "blocks of 2097152"),
        (0x17C, "<I", 512, "before each block"),
        (0x180, "<I", 5, "5 blocks"),
        (0x184, "<I", 5, "5 of 4 blocks"),
        (0x184, "<I", 3, "beyond the 3 allocated"),
        (0x188, "<16s", bytes(16), "no UUID"),
        (0x1A8, "<16s", bytes([7]) * 16, "parent contradict"),
    ],
)
def test_each_damage_has_its_reason(
    tmp_path: Path, offset: int, form: str, value: int | bytes, reason: str
) -> None:
    data = bytearray(full().render())
    struct.pack_into(form, data, offset, value)
    with pytest.raises(DiskImageError, match=reason) as caught:
        open_bytes(tmp_path / "a.vdi", bytes(data))
    assert str(tmp_path / "a.vdi") in caught.value.message


def test_a_moved_start_of_data_is_refused(tmp_path: Path) -> None:
    data = bytearray(full().render())
    struct.pack_into("<I", data, 0x158, full().data_offset - 256)
    struct.pack_into("<I", data, 0x154, full().map_offset - 40)  # else the map is in the way
    with pytest.raises(DiskImageError, match="no whole blocks"):
        open_bytes(tmp_path / "a.vdi", bytes(data))


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.vdi"
    {"missing": lambda: None, "directory": path.mkdir, "fifo": lambda: os.mkfifo(path)}[kind]()
    with pytest.raises(DiskImageError, match=r"a\.vdi"):
        VdiImage.open(path)


def test_a_parent_of_another_uuid_is_refused(tmp_path: Path) -> None:
    base, other = small(), small()
    leaf = base.child({})
    with pytest.raises(DiskImageError, match="its parent is"):
        Chain.open([leaf.write(tmp_path / "leaf"), other.write(tmp_path / "other")])


def test_a_parent_that_was_written_since_is_refused(tmp_path: Path) -> None:
    base = small()
    leaf = base.child({})
    base.modification = uuid4()
    with pytest.raises(DiskImageError, match="changed after"):
        Chain.open([leaf.write(tmp_path / "leaf"), base.write(tmp_path / "base")])


def test_a_chain_without_its_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiskImageError, match="is not known"):
        Chain.open([small().child({}).write(tmp_path / "leaf")])


def test_images_of_different_block_sizes_are_refused(tmp_path: Path) -> None:
    base = small()
    leaf = base.child({})
    leaf.block_size = 2 * BLOCK
    with pytest.raises(DiskImageError, match="not of the size"):
        Chain.open([leaf.write(tmp_path / "leaf"), base.write(tmp_path / "base")])


def test_an_image_that_was_resized_apart_from_its_parent_is_refused(tmp_path: Path) -> None:
    base = small()
    leaf = base.child({})
    leaf.size += BLOCK
    with pytest.raises(DiskImageError, match="was resized"):
        Chain.open([leaf.write(tmp_path / "leaf"), base.write(tmp_path / "base")])


def test_a_failed_chain_leaves_no_file_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    base = small()
    leaf = base.child({})
    base.identifier = UUID(int=5)
    for _ in range(3):
        with pytest.raises(DiskImageError):
            Chain.open([leaf.write(tmp_path / "leaf"), base.write(tmp_path / "base")])
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("what", ["written", "replaced", "deleted"])
def test_a_change_of_a_file_is_seen(tmp_path: Path, what: str) -> None:
    base = small()
    leaf = base.child({})
    base_path = base.write(tmp_path / "base")
    with Chain.open([leaf.write(tmp_path / "leaf"), base_path]) as chain:
        assert chain.changed() is None
        if what == "written":
            with base_path.open("r+b") as file:
                file.write(b"x")
            os.utime(base_path, ns=(1, 1))
        else:
            base_path.unlink()
        if what == "replaced":
            base.write(base_path)
        assert chain.changed() == base_path


def test_a_file_cut_off_after_it_was_opened_is_an_error_not_zeros(tmp_path: Path) -> None:
    path = full().write(tmp_path / "a.vdi")
    with Chain.open([path]) as chain:
        os.truncate(path, full().data_offset + BLOCK + 100)
        with pytest.raises(DiskImageError, match="ends inside of a block"):
            read_all(chain)
