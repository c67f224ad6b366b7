"""Any part of a disk in a copy is what was written there, or an error; whatever the copy says."""

import contextlib
import errno
import os
import random
import struct
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from shared.host.errors import CopyError, NasError, VmBackupError
from shared.ova.disk_reader import CopyReader, DamagedBlockError, open_copy
from tests.support import copies as make
from tests.support import engine_copies
from tests.support.disk_files import content

GRAIN = 65536
GRAINS = {
    number: (random.Random(number).randbytes(700) * 100)[:GRAIN]
    for number in (0, 1, 2, 5, 511, 512, 600, 2047)
}
VMDK = make.vmdk(GRAINS)
DISK = b"".join(GRAINS.get(number, bytes(GRAIN)) for number in range(2048))
DIRECTORY = struct.unpack_from("<Q", VMDK, len(VMDK) - 1024 + 56)[0] * 512


def opened(folder: Path, disk: bytes = VMDK, *, disk_name: str = "vm-disk001.vmdk") -> CopyReader:
    path = folder / "20261122T203800Z-17.ova"
    path.write_bytes(make.ova(disk, disk_name=disk_name))
    return open_copy(path)


def indexed(
    folder: Path, *, aligned: bool = False, **blocks: int
) -> tuple[engine_copies.Copy, bytes]:
    """A copy that the engine made, with its index, and what is on its disk."""
    image = engine_copies.disk(**blocks)
    made = engine_copies.make(folder, "copy", {"SATA-0-0": image}, aligned=aligned)
    return made, content([image])


def put(path: Path, position: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def first_sector(data: bytes) -> int:
    """Of the table of the first grains, in the disk's file."""
    return int.from_bytes(data[DIRECTORY : DIRECTORY + 4], "little")


@pytest.mark.broad
@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 1),
        (0, 4 * GRAIN),
        (GRAIN - 1, 2),
        (100, 10 * GRAIN),
        (511 * GRAIN + 5, 2 * GRAIN),
        (2047 * GRAIN, GRAIN),
        (2048 * GRAIN - 3, 100),
        (2048 * GRAIN, 1),
        (1 << 60, 1),
        (7, 0),
        (0, 2048 * GRAIN),
    ],
)
def test_any_part_is_what_was_written(tmp_path: Path, offset: int, length: int) -> None:
    with opened(tmp_path) as copy:
        assert copy.disks[0].read(offset, length) == DISK[offset : offset + length]


@pytest.mark.broad
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(some.lists(some.tuples(some.integers(0, len(DISK)), some.integers(0, 300_000)), max_size=9))
def test_parts_in_any_order(tmp_path: Path, parts: list[tuple[int, int]]) -> None:
    with opened(tmp_path) as copy:
        for offset, length in parts:
            assert copy.disks[0].read(offset, length) == DISK[offset : offset + length]


def test_negative_places_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as copy:
        for offset, length in ((-1, 1), (1, -1)):
            with pytest.raises(ValueError, match="negative"):
                copy.disks[0].read(offset, length)


def test_runs_are_where_grains_are(tmp_path: Path) -> None:
    with opened(tmp_path) as copy:
        assert list(copy.disks[0].runs()) == [
            (0, 3 * GRAIN),
            (5 * GRAIN, GRAIN),
            (511 * GRAIN, 2 * GRAIN),
            (600 * GRAIN, GRAIN),
            (2047 * GRAIN, GRAIN),
        ]


def test_threads_share_a_reader(tmp_path: Path) -> None:
    with opened(tmp_path) as copy, ThreadPoolExecutor(8) as pool:
        places = [random.Random(number).randrange(len(DISK)) for number in range(400)]
        found = pool.map(lambda place: copy.disks[0].read(place, 70_000), places)
        assert list(found) == [DISK[place : place + 70_000] for place in places]


@pytest.mark.broad
@pytest.mark.parametrize("aligned", [False, True])
def test_copies_with_an_index_are_compared_with_it(tmp_path: Path, *, aligned: bool) -> None:
    made, disk = indexed(tmp_path, aligned=aligned)
    with open_copy(made.ova) as copy:
        (reader,) = copy.disks
        assert (copy.index_problem, reader.indexed, reader.size) == ("", True, len(disk))
        assert reader.read(0, len(disk)) == disk
        assert list(reader.runs()) == [(0, 40 * GRAIN)]


@pytest.mark.broad
def test_another_grain_in_the_place_of_one_is_found_by_the_index(tmp_path: Path) -> None:
    made, _ = indexed(tmp_path)
    with open_copy(made.ova) as copy:
        data = made.ova.read_bytes()
        position = copy.disks[0].member.position
    start = data.index(struct.pack("<Q", 3 * 128), position)
    (size,) = struct.unpack_from("<I", data, start + 8)
    other = zlib.compress(b"other" + bytes(GRAIN - 5))
    put(made.ova, start, struct.pack("<QI", 3 * 128, len(other)) + other)
    assert len(other) < size
    with open_copy(made.ova) as copy:
        with pytest.raises(DamagedBlockError, match="digest") as raised:
            copy.disks[0].read(3 * GRAIN, 1)
        assert raised.value.errno == errno.EIO
        assert isinstance(raised.value, OSError)
        assert copy.disks[0].read(2 * GRAIN, 1)
    made.index.unlink()
    with open_copy(made.ova) as copy:
        assert copy.disks[0].read(3 * GRAIN, 5) == b"other"  # nothing else says that it is another
        assert copy.index_problem == "there is no index of it"


@pytest.mark.broad
def test_a_grain_that_its_table_lost_is_no_zeros(tmp_path: Path) -> None:
    made, disk = indexed(tmp_path)
    with open_copy(made.ova) as copy:
        data = made.ova.read_bytes()
        (place,) = struct.unpack_from("<I", data, data.index(struct.pack("<QII", 1, 0, 3)) - 512)
        table = copy.disks[0].member.position + place * 512
    put(made.ova, table + 4 * 5, bytes(4))
    with open_copy(made.ova) as copy:
        assert next(copy.disks[0].runs()) == (0, 40 * GRAIN)
        with pytest.raises(DamagedBlockError, match="contradict"):
            copy.disks[0].read(5 * GRAIN, 1)
        assert copy.disks[0].read(4 * GRAIN, GRAIN) == disk[4 * GRAIN : 5 * GRAIN]


@pytest.mark.broad
def test_an_index_of_another_copy_is_not_used(tmp_path: Path) -> None:
    made, disk = indexed(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = indexed(tmp_path / "other", b3=9)
    made.index.write_bytes(other.index.read_bytes())
    with open_copy(made.ova) as copy:
        assert "another copy" in copy.index_problem
        assert copy.disks[0].read(0, len(disk)) == disk


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (first_sector(VMDK) * 512 + 4, struct.pack("<I", 1)),  # into the descriptor
        (first_sector(VMDK) * 512 + 4, struct.pack("<I", 2**32 - 1)),  # out of the file
        (first_sector(VMDK) * 512 + 4, VMDK[first_sector(VMDK) * 512 :][:4]),  # at its neighbour
        (first_sector(VMDK) * 512 + 4, struct.pack("<I", first_sector(VMDK))),  # at itself
        (DIRECTORY, struct.pack("<I", DIRECTORY // 512)),  # the directory at itself
        (DIRECTORY, VMDK[DIRECTORY + 4 : DIRECTORY + 8]),  # at the table of others
        (DIRECTORY, struct.pack("<I", 2**32 - 1)),
        (DIRECTORY, struct.pack("<I", 1)),
    ],
)
def test_tables_that_lie_are_errors(tmp_path: Path, where: int, what: bytes) -> None:
    disk = VMDK[:where] + what + VMDK[where + len(what) :]
    with opened(tmp_path, disk) as copy:
        with pytest.raises(DamagedBlockError):
            copy.disks[0].read(GRAIN, 1)
        assert copy.disks[0].read(600 * GRAIN, GRAIN) == GRAINS[600]


def with_grain(number: int, length: int, data: bytes) -> bytes:
    """The disk with this in the place of a grain."""
    start = VMDK.index(struct.pack("<Q", number * 128), 128 * 512)
    put = struct.pack("<QI", number * 128, length) + data
    return VMDK[:start] + put + VMDK[start + len(put) :]


@pytest.mark.broad
def test_bombs_and_lengths_that_lie_take_no_memory(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(20 << 20), 9)
    packed = zlib.compress(GRAINS[0])
    inside = {0: b"\1" * GRAIN, 1: random.Random(1).randbytes(GRAIN)}
    for disk in (
        make.vmdk({**inside, 0: bytes(20 << 20)}),  # inflates to 20 MB
        with_grain(0, 2**32 - 1, packed),
        with_grain(0, 0, packed),
        with_grain(0, len(packed) - 1, packed),
        with_grain(0, len(packed) + 1, packed + b"x"),
        with_grain(0, 100, bomb[:100]),
    ):
        with opened(tmp_path, disk) as copy:
            tracemalloc.start()
            with pytest.raises(DamagedBlockError):
                copy.disks[0].read(0, GRAIN)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 4 << 20


@pytest.mark.parametrize("capacity", [2**30, 2**45, 2**63])
def test_a_capacity_that_lies_is_refused_or_bounded(tmp_path: Path, capacity: int) -> None:
    where = 12
    field = struct.pack("<Q", capacity)
    end = len(VMDK) - 1024 + where
    disk = VMDK[:where] + field + VMDK[where + 8 : end] + field + VMDK[end + 8 :]
    with pytest.raises(CopyError), opened(tmp_path, disk) as copy:
        copy.disks[0].read((capacity - 1) * 512, 512)


@pytest.mark.parametrize(
    "disk", [b"", bytes(512), VMDK[:-512], VMDK[:-1], VMDK + bytes(512), b"#" * 5000]
)
def test_what_is_no_disk_has_no_bytes_and_says_why(tmp_path: Path, disk: bytes) -> None:
    with opened(tmp_path, disk) as copy:
        (reader,) = copy.disks
        assert "cannot be read" in reader.problem
        assert reader.size == 0
        for attempt in (lambda: reader.read(0, 1), lambda: list(reader.runs())):
            with pytest.raises(DamagedBlockError):
                attempt()


def test_names_are_no_paths(tmp_path: Path) -> None:
    with opened(tmp_path, disk_name="../../etc/passwd.vmdk") as copy:
        assert copy.disks[0].name == "../../etc/passwd.vmdk"
        assert copy.disks[0].read(0, 9) == GRAINS[0][:9]
        with pytest.raises(CopyError, match=r"no '\.\./x\.ovf'"):
            copy.member("../x.ovf")


def test_small_files_of_a_copy(tmp_path: Path) -> None:
    with opened(tmp_path) as copy:
        assert copy.member("x.ovf").startswith(b"<?xml")
        assert copy.names == ("x.ovf", "vm-disk001.vmdk", "x.mf")
        with pytest.raises(CopyError, match=r"has no .*vbox"):
            copy.member("vbox")
        (tmp_path / "20261122T203800Z-17.vbox").write_bytes(b"settings")
        assert copy.member("vbox") == b"settings"
        (tmp_path / "20261122T203800Z-17.nvram").symlink_to("/etc/passwd")
        with pytest.raises(NasError):
            copy.member("nvram")


def test_what_is_no_file_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.ova")
    (tmp_path / "b.ova").mkdir()
    for name in ("a.ova", "b.ova", "c.ova"):
        with pytest.raises(NasError):
            open_copy(tmp_path / name)


@pytest.mark.broad
def test_a_disk_of_500_gb_takes_little_memory(tmp_path: Path) -> None:
    """Its grains are spread over all of it: each 256th table has one."""
    total = 500 * 10**9 // GRAIN
    grains = dict.fromkeys(range(0, total, 1 << 17), GRAINS[0])
    disk = make.vmdk(grains, capacity_grains=total)
    with opened(tmp_path, disk) as copy:
        tracemalloc.start()
        assert len(list(copy.disks[0].runs())) == len(grains)
        for number in grains:
            assert copy.disks[0].read(number * GRAIN + 1, 2) == GRAINS[0][1:3]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 16 << 20


def test_a_copy_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    with opened(tmp_path) as copy:
        os.truncate(copy.path, 70_000)
        with pytest.raises(DamagedBlockError):
            copy.disks[0].read(0, GRAIN)


def test_a_reader_that_was_closed_reads_nothing(tmp_path: Path) -> None:
    copy = opened(tmp_path)
    copy.close()
    with pytest.raises(VmBackupError):
        copy.disks[0].read(0, 1)


@pytest.mark.broad
@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    some.lists(
        some.tuples(
            some.one_of(
                some.integers(0, 200),
                some.integers(65536, len(VMDK) - 1),
                some.integers(DIRECTORY - 600, len(VMDK) - 1),
            ),
            some.binary(min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_a_copy_says_ends_in_bytes_or_one_kind_of_error(
    tmp_path: Path, changes: list[tuple[int, bytes]]
) -> None:
    disk = bytearray(VMDK)
    for where, what in changes:
        disk[where : where + len(what)] = what
    begun = time.monotonic()
    try:
        with opened(tmp_path, bytes(disk[: len(VMDK)])) as copy:
            reader = copy.disks[0]
            for offset in (0, GRAIN, 511 * GRAIN, 2047 * GRAIN, reader.size - 1):
                with contextlib.suppress(DamagedBlockError):
                    assert len(reader.read(offset, 3)) <= 3
            for count, (offset, length) in enumerate(reader.runs()):
                assert 0 <= offset < offset + length <= reader.size
                assert count < len(VMDK) // 4
    except CopyError:
        pass
    assert time.monotonic() - begun < 20
    assert threading.active_count() < 50
