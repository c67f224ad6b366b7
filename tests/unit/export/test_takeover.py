"""What is taken over from the copy before without being read: always what is on the disk now.

On real file systems with reflinks. The disk is changed at random between two copies, and the kernel
counts what is read of it. Rot in the copy before is taken over, and found by the first full reading
of the new one, wherever it is.
"""

import itertools
import os
import random
import shutil
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from shared.export.delta import Delta, DeltaPlan
from shared.export.disk_writing import LockedSink
from shared.export.pipeline import CompressionSettings, Pipeline, ReadMeter
from shared.export.takeover import PreviousDisk
from shared.frozen.extents import SHARED, read_extents
from shared.frozen.kept_clones import KeptNote
from shared.frozen.not_frozen import NotFrozenError
from shared.frozen.reflink import clone
from shared.host.errors import CopyError
from shared.host.rate_limit import Pace
from shared.ova.compression import zlib_codec
from shared.ova.disk import Chain
from shared.ova.disk_reader import open_copy
from shared.ova.index import GrainIndex, grain_digest, index_digest
from shared.ova.ova_writing import OvaWriter
from shared.ova.parts import MadeParts, Segment, segments
from shared.ova.parts_check import check_parts, check_sent
from shared.ova.vmdk_units import UnitSettings
from shared.ova.vmdk_writing import VmdkLayout
from tests.support.disk_files import ZERO, Vdi, VmdkReader, content, pattern
from tests.support.drawing import SEED, TOLD
from tests.support.file_systems import REFLINKING, mounted, read_by_this_process

pytestmark = pytest.mark.slow

#: Four grains.
BLOCK = 2**18
PLACE, REPOSITORY, MACHINE = "SATA-0-0", "a repository", "a machine"


@dataclass
class Made:
    """A copy that was made of clones, what of the disk was not read for it, and all that was."""

    number: int
    ova: Path
    size: int
    unread: int
    copied: int
    read: int
    parts: MadeParts | None

    @property
    def disk(self) -> bytes:
        """The disk in it."""
        with tarfile.open(self.ova) as archive:
            file = archive.extractfile("disk.vmdk")
            assert file is not None
            return VmdkReader(file.read()).disk(self.size)

    @property
    def index(self) -> Path:
        return self.ova.with_suffix(".index")

    def check(self, *, whole: bool = True) -> None:
        """Compares it with the digests that were made when its bytes were."""
        assert self.parts is not None
        with closing(GrainIndex.open(self.index)) as index:
            if whole:
                check_parts(self.ova.parent, self.ova.name, self.parts.parts, index)
            else:
                check_sent(self.ova.parent, self.ova.name, self.parts, index)


class Maker:
    """Makes copies of one disk by the parts of the engine, each from clones."""

    def __init__(self, folder: Path, *, aligned: bool = False) -> None:
        self.folder, self.aligned = folder, aligned
        self.note = KeptNote(folder / "state", REPOSITORY, MACHINE)
        self.number = 0

    def make(self, *files: Path, aligned: bool | None = None, checked: bool = True) -> Made:
        """The next copy; its clones are kept."""
        self.number += 1
        clones = [self.folder / f"{self.number}-{at}.frozen" for at, _ in enumerate(files)]
        for file, target in zip(files, clones, strict=True):
            clone(file, target)
        plan = self._plan(self.aligned if aligned is None else aligned)
        meter, ova = ReadMeter(), self.folder / f"{self.number}.ova"
        before = read_by_this_process()
        with ExitStack() as stack:
            writer, parts = self._write(plan, clones, meter, ova, stack)
        read = read_by_this_process() - before
        self.note.write(str(self.number), index_digest(plan.index), {PLACE: clones})
        with Chain.open(clones) as chain:
            size = chain.size
        made = Made(self.number, ova, size, meter.unread, writer.copied, read, parts)
        if parts and checked:
            made.check()
            made.check(whole=False)
        return made

    def _plan(self, aligned: bool) -> DeltaPlan:
        index = self.folder / f"{self.number}.index"
        before = [self.folder / f"{self.number - 1}.{suffix}" for suffix in ("ova", "index")]
        if not before[0].exists():
            return DeltaPlan(index, aligned=aligned)
        with closing(GrainIndex.open(before[1])) as known:
            return DeltaPlan(index, *before, 1000, aligned, known.sha256)

    def _write(
        self, plan: DeltaPlan, clones: list[Path], meter: ReadMeter, ova: Path, stack: ExitStack
    ) -> tuple[OvaWriter, MadeParts | None]:
        cancelled = threading.Event()
        writer = OvaWriter(ova, modified=1, cancelled=cancelled)
        stack.callback(writer.close)
        settings = CompressionSettings(
            2, UnitSettings(zlib_codec(1), digest=grain_digest, alignment=plan.alignment)
        )
        pipeline = Pipeline(settings, cancelled)
        stack.callback(pipeline.close)
        delta = stack.enter_context(Delta(plan, ova))
        chain = stack.enter_context(Chain.open(clones))
        kept = self.note.read()
        section = delta.previous(PLACE, kept.stamp, kept.index) if kept else None
        previous = None
        if kept and section:
            previous = PreviousDisk.of_clones(section, kept.disks[PLACE], chain, stack)
        writer.add("vm.ovf", b"<Envelope/>")
        writer.begin("disk.vmdk")
        layout = VmdkLayout(
            "disk.vmdk",
            chain.size,
            7,
            UUID(int=1),
            position=writer.position,
            alignment=plan.alignment,
        )
        sink = LockedSink(writer, [], layout, delta.begin(PLACE, writer.position))
        pipeline.copy(chain, layout, sink, meter, previous)
        writer.end()
        members = writer.finish("vm.mf")
        delta.finish(members, writer.position)
        return writer, delta.parts(writer, members)


def disk(seed: int = 0, blocks: int = 24) -> Vdi:
    """A disk of 1 MiB blocks: data, zeros that are allocated, and holes."""
    content: dict[int, bytes | int] = {}
    for number in range(blocks):
        if number % 5 == 3:
            content[number] = bytes(BLOCK // 2) + pattern(seed + number, BLOCK // 2)
        elif number % 5 != 4:
            content[number] = pattern(seed + number, BLOCK)
    content[blocks - 1] = ZERO
    return Vdi((blocks + 2) * BLOCK - 512, content, BLOCK)


@pytest.fixture(params=REFLINKING)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system with reflinks."""
    with mounted(request.param, tmp_path) as found:
        yield found


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """One of them."""
    with mounted("xfs", tmp_path) as found:
        yield found


def change(image: Vdi, path: Path, source: random.Random) -> None:
    """Writes somewhere into the data of a disk's file, as a guest does."""
    stored = sorted(
        (n for n, data in image.blocks.items() if isinstance(data, bytes)), reverse=True
    )
    number = source.choice(stored)
    at, length = source.randrange(BLOCK), source.choice([1, 512, 4096, 70_000])
    length = min(length, BLOCK - at)
    data = source.choice([source.randbytes(length), bytes(length)])
    before = image.blocks[number]
    assert isinstance(before, bytes)
    image.blocks[number] = before[:at] + data + before[at + length :]
    with path.open("r+b") as file:
        file.seek(image.data_offset + stored.index(number) * BLOCK + at)
        file.write(data)


def test_copies_of_a_disk_that_is_changed_at_random_are_that_disk(place: Path) -> None:
    source, aligned = random.Random(SEED), bool(SEED % 2)
    image, path = disk(), place / "disk.vdi"
    image.write(path)
    maker = Maker(place, aligned=aligned)
    assert maker.make(path).disk == content([image])
    for turn in range(3):
        for _ in range(source.randrange(6)):
            change(image, path, source)
        made = maker.make(path)
        assert made.disk == content([image]), f"{TOLD}, turn {turn}"
        assert made.unread > 10 * BLOCK
        assert made.copied > BLOCK


def test_a_copy_after_no_change_reads_no_disk(xfs: Path) -> None:
    image, path = disk(), xfs / "disk.vdi"
    image.write(path)
    maker = Maker(xfs)
    first, second = maker.make(path), maker.make(path)
    assert first.disk == second.disk == content([image])
    data = sum(BLOCK for block in image.blocks.values() if isinstance(block, bytes))
    assert (first.unread, second.unread) == (0, data)
    assert first.read > data
    # what the kernel copied is counted, too
    assert second.read - second.copied < 500_000
    assert second.copied > 0.9 * (second.ova.stat().st_size - 200_000)


def test_what_the_nas_copied_is_not_read_back_at_the_pace_of_the_host(xfs: Path) -> None:
    image, path, counts = disk(), xfs / "disk.vdi", []
    image.write(path)
    maker = Maker(xfs)
    maker.make(path)
    made = maker.make(path)
    assert made.parts is not None

    class Counted(Pace):
        def wait(self, count: int) -> None:
            counts.append(count)

    with closing(GrainIndex.open(made.index)) as index:
        check_sent(made.ova.parent, made.ova.name, made.parts, index, pace=Counted())
    size = made.ova.stat().st_size
    assert size - made.copied <= sum(counts) < size / 2


def test_a_disk_whose_layout_changed_between_copies(xfs: Path) -> None:
    """With and without units that begin at blocks of the file system, one after the other."""
    image, path = disk(), xfs / "disk.vdi"
    image.write(path)
    maker = Maker(xfs)
    for aligned in (False, True, True, False):
        made = maker.make(path, aligned=aligned)
        assert made.disk == content([image])
        assert (made.unread > 0) == (made.number > 1)


def test_units_that_were_filled_up_are_read_by_the_index_wherever_they_are_then(
    xfs: Path,
) -> None:
    """A grain that was the last of its unit takes along what filled that up."""
    source, image, path = random.Random(SEED), disk(), xfs / "disk.vdi"
    image.write(path)
    maker = Maker(xfs, aligned=True)
    maker.make(path)
    for _ in range(3):
        for _ in range(4):
            change(image, path, source)
        made = maker.make(path)
        with open_copy(made.ova) as copy:
            (read,) = copy.disks
            assert read.indexed
            assert read.read(0, image.size) == content([image]), f"{TOLD}"


def test_blocks_that_moved_and_images_that_came_and_went(xfs: Path) -> None:
    """A snapshot is taken, written, and merged; then the disk is compacted."""
    base = disk()
    path, above = xfs / "disk.vdi", xfs / "above.vdi"
    base.write(path)
    maker = Maker(xfs)
    maker.make(path)
    child = base.child({2: pattern(99, BLOCK), 3: ZERO, 24: pattern(98, BLOCK)})
    child.write(above)
    assert maker.make(above, path).disk == content([child, base])
    child.blocks[5] = pattern(97, BLOCK)
    child.write(above)
    assert maker.make(above, path).disk == content([child, base])
    merged = Vdi(base.size, {**base.blocks, **child.blocks}, BLOCK, identifier=base.identifier)
    merged.write(path)
    assert maker.make(path).disk == content([merged])
    compacted = Vdi(
        base.size,
        {number: data for number, data in merged.blocks.items() if number % 2},
        BLOCK,
        identifier=base.identifier,
    )
    compacted.write(path)
    assert maker.make(path).disk == content([compacted])


@pytest.mark.parametrize("aligned", [False, True])
def test_what_only_a_snapshot_had_is_gone_with_it(xfs: Path, *, aligned: bool) -> None:
    """Blocks before it and behind it are in the base and stay; nothing else of them changed."""
    base = Vdi(12 * BLOCK, {n: pattern(n, BLOCK) for n in range(12) if n not in (1, 5, 6)}, BLOCK)
    path, leaf = xfs / "disk.vdi", xfs / "leaf.vdi"
    base.write(path)
    maker = Maker(xfs, aligned=aligned)
    above = base.child({1: pattern(91, BLOCK), 5: pattern(95, BLOCK), 9: ZERO})
    for child in (above, base.child({}), base.child({3: ZERO, 6: pattern(96, BLOCK)})):
        child.write(leaf)
        made = maker.make(leaf, path)
        assert made.disk == content([child, base])
        assert (made.unread > 0) == (made.number > 1)


def test_blocks_that_come_and_go_at_random_are_where_they_are_now(place: Path) -> None:
    """Above a base that stays: data, zeros, and blocks of the base that can be seen again."""
    source = random.Random(SEED)
    base = Vdi(40 * BLOCK, {n: pattern(n, BLOCK) for n in range(40) if n % 3}, BLOCK)
    path, leaf = place / "disk.vdi", place / "leaf.vdi"
    base.write(path)
    maker = Maker(place, aligned=bool(SEED % 2))
    for turn in range(6):
        blocks: dict[int, bytes | int] = {
            n: source.choice([ZERO, pattern(1000 * turn + n, BLOCK)])
            for n in source.sample(range(40), source.randrange(8))
        }
        child = base.child(blocks)
        child.write(leaf)
        made = maker.make(leaf, path)
        assert made.disk == content([child, base]), f"{TOLD}, turn {turn}"


def test_a_file_that_was_replaced_by_another_disk_of_the_same_uuid(xfs: Path) -> None:
    image, other = disk(), disk(500)
    other.identifier = image.identifier
    path = xfs / "disk.vdi"
    image.write(path)
    maker = Maker(xfs)
    maker.make(path)
    path.unlink()
    other.write(path)
    made = maker.make(path)
    assert made.disk == content([other])
    assert made.unread == 0


def test_rot_in_the_copy_before_is_found_by_the_first_full_reading_at_each_place(
    xfs: Path,
) -> None:
    """A bit of each segment; what is sent anew is right again, and what is taken over is not."""
    image, path = disk(blocks=3), xfs / "disk.vdi"
    image.write(path)
    places: list[Segment] = []
    for turn in itertools.count():
        (folder := xfs / str(turn)).mkdir()
        maker = Maker(folder)
        maker.make(path)
        second = maker.make(path)
        assert second.parts is not None
        data = bytearray(second.ova.read_bytes())
        with closing(GrainIndex.open(second.index)) as index:
            places = list(segments(second.parts.parts, index, len(data)))
        if turn == len(places):
            break
        rotten = places[turn]
        data[(rotten.start + rotten.end) // 2] ^= 1
        second.ova.write_bytes(data)
        with pytest.raises(CopyError):
            second.check()
        third = maker.make(path, checked=False)
        if rotten.grain >= 0:
            with pytest.raises(CopyError, match="has other bytes than were written"):
                third.check()
        elif third.parts:
            third.check()
        else:
            assert third.disk == content([image]), "the index does not belong to that any more"
    assert len(places) > 12


def _touched(path: Path) -> None:
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))


def _copied(path: Path) -> None:
    shutil.copy2(path, path.with_name("another"))
    path.with_name("another").replace(path)


def _rewritten(path: Path) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.write(file.read(1))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("what", [_touched, _copied, _rewritten])
def test_a_clone_that_is_not_what_was_left_is_not_believed(xfs: Path, what: object) -> None:
    image, path = disk(blocks=8), xfs / "disk.vdi"
    image.write(path)
    maker = Maker(xfs)
    maker.make(path)
    what(xfs / "1-0.frozen")  # type: ignore[operator]
    with pytest.raises(NotFrozenError, match="is not what was left there"):
        maker.make(path)


def test_clones_of_another_copy_or_index_are_not_used(xfs: Path) -> None:
    image, path = disk(blocks=8), xfs / "disk.vdi"
    image.write(path)
    maker = Maker(xfs)
    maker.make(path)
    with closing(GrainIndex.open(xfs / "1.index")) as known:
        sealed = known.sha256
    before, kept = (xfs / "1.ova", xfs / "1.index"), maker.note.read()
    assert kept is not None
    for other in ("", "0" * 64):
        plan = DeltaPlan(xfs / f"y{other}.index", *before, 1000, unread=other)
        with Delta(plan, xfs / "y.ova") as delta:
            assert delta.previous(PLACE, kept.stamp, kept.index) is None, "not the sealed one"
    plan = DeltaPlan(xfs / "x.index", *before, 1000, unread=sealed)
    with Delta(plan, xfs / "x.ova") as delta:
        assert delta.previous(PLACE, kept.stamp, kept.index) is not None
        assert delta.previous("SATA-1-0", kept.stamp, kept.index) is None
        assert delta.previous(PLACE, "2", kept.index) is None
        assert delta.previous(PLACE, kept.stamp, "0" * 64) is None


def test_what_follows_a_changed_grain_is_shared_with_the_copy_before(xfs: Path) -> None:
    """The first of four grains of each block has another length; the others can be shared."""
    image, path = disk(), xfs / "disk.vdi"
    image.write(path)
    maker = Maker(xfs, aligned=True)
    maker.make(path)
    stored = sorted(
        (n for n, data in image.blocks.items() if isinstance(data, bytes)), reverse=True
    )
    with path.open("r+b") as file:
        for place, number in enumerate(stored):
            before, written = image.blocks[number], random.Random(number).randbytes(2000 * place)
            assert isinstance(before, bytes)
            image.blocks[number] = written + before[len(written) :]
            file.seek(image.data_offset + place * BLOCK)
            file.write(written)
    made = maker.make(path)
    assert made.disk == content([image])
    assert made.unread
    with made.ova.open("rb") as file:
        extents = list(read_extents(file.fileno()))
    own = sum(extent.end - extent.start for extent in extents if not extent.flags & SHARED)
    sent = made.ova.stat().st_size - made.copied
    assert own < 1.2 * sent
