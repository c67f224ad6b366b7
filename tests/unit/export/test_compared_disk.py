"""What a copy of a disk that cannot be cloned takes over: always what is on the disk now.

All of it is read, and compared with the digests that were noted for the copy before. Those may be
of another time, damaged, or somebody else's: then more is sent, and never the wrong thing.
"""

import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from shared.export.compared_disk import ComparedDisk
from shared.export.delta import Delta, DeltaPlan
from shared.export.disk_writing import LockedSink
from shared.export.pipeline import CompressionSettings, Pipeline, ReadMeter
from shared.export.raw_digests import LastDigests, RawDigests
from shared.frozen.digest_files import digest_files, path_of
from shared.ova.compression import Codec, zlib_codec
from shared.ova.disk import Chain
from shared.ova.index import GrainIndex, grain_digest
from shared.ova.ova_writing import OvaWriter
from shared.ova.parts import MadeParts
from shared.ova.vmdk import GRAIN
from shared.ova.vmdk_units import UnitSettings
from shared.ova.vmdk_writing import VmdkLayout
from tests.support.disk_files import ZERO, Vdi, content, pattern
from tests.support.drawing import SEED, TOLD
from tests.unit.export.test_takeover import BLOCK, MACHINE, PLACE, REPOSITORY, Made, change, disk

pytestmark = pytest.mark.broad


class Counted:
    """A codec that says how many grains it has compressed."""

    def __init__(self) -> None:
        self.grains = 0
        self._codec = zlib_codec(1)

    def codec(self) -> Codec:
        def compress(data: bytes | memoryview) -> bytes:
            self.grains += 1
            return self._codec.compress(data)

        return replace(self._codec, compress=compress)


class Maker:
    """Makes copies of one disk by the parts of the engine, as it is read."""

    def __init__(self, folder: Path, *, aligned: bool = False) -> None:
        self.folder, self.aligned, self.number = folder, aligned, 0
        self.state = folder / "state"
        self._counted = Counted()

    @property
    def file(self) -> Path:
        return path_of(self.state, REPOSITORY, MACHINE)

    def make(self, *files: Path, keep: bool = True, place: str = PLACE) -> Made:
        self.number += 1
        index = self.folder / f"{self.number}.index"
        before = [self.folder / f"{self.number - 1}.{suffix}" for suffix in ("ova", "index")]
        plan = DeltaPlan(index, aligned=self.aligned)
        if before[0].exists():
            with closing(GrainIndex.open(before[1])) as known:
                plan = DeltaPlan(index, *before, 1000, self.aligned, known.sha256)
        digests = RawDigests(self.state, REPOSITORY, MACHINE, self.number)
        ova, self._counted = self.folder / f"{self.number}.ova", Counted()
        with ExitStack() as stack:
            chain = stack.enter_context(Chain.open(files))
            writer, parts = self._write(plan, chain, digests, ova, place, stack)
            size = chain.size
        digests.keep(str(self.number), index) if keep else digests.discard()
        made = Made(self.number, ova, size, 0, writer.copied, 0, parts)
        if parts:
            made.check()
            made.check(whole=False)
        return made

    @property
    def compressed(self) -> int:
        """How many grains of the last copy were."""
        return self._counted.grains

    def _write(
        self,
        plan: DeltaPlan,
        chain: Chain,
        digests: RawDigests,
        ova: Path,
        place: str,
        stack: ExitStack,
    ) -> tuple[OvaWriter, MadeParts | None]:
        cancelled = threading.Event()
        writer = OvaWriter(ova, modified=1, cancelled=cancelled)
        stack.callback(writer.close)
        units = UnitSettings(self._counted.codec(), digest=grain_digest, alignment=plan.alignment)
        pipeline = Pipeline(CompressionSettings(2, units), cancelled)
        stack.callback(pipeline.close)
        delta = stack.enter_context(Delta(plan, ova))
        last = digests.last()
        if last:
            stack.callback(last.close)
        hashing = digests.begin(last.hash if last else None)
        section = delta.previous(place, last.stamp, last.index) if last else None
        grains = last.grains(place) if last and section else ()
        compared = ComparedDisk(place, digests, hashing, section, grains)
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
        sink = LockedSink(writer, [], layout, delta.begin(place, writer.position))
        pipeline.copy(chain, layout, sink, ReadMeter(), compared)
        writer.end()
        members = writer.finish("vm.mf")
        delta.finish(members, writer.position)
        return writer, delta.parts(writer, members)


def grains_of(image: Vdi) -> int:
    """How many are no zeros."""
    data = content([image])
    grains = [data[at : at + GRAIN] for at in range(0, len(data), GRAIN)]
    return sum(any(grain) for grain in grains)


@pytest.fixture
def image(tmp_path: Path) -> Vdi:
    made = disk()
    made.write(tmp_path / "disk.vdi")
    return made


@pytest.mark.slow
@pytest.mark.parametrize("aligned", [False, True])
def test_copies_of_a_disk_that_is_changed_at_random_are_that_disk(
    tmp_path: Path, image: Vdi, *, aligned: bool
) -> None:
    source, path = random.Random(SEED), tmp_path / "disk.vdi"
    maker = Maker(tmp_path, aligned=aligned)
    assert maker.make(path).disk == content([image])
    for turn in range(8):
        changes = source.randrange(6)
        for _ in range(changes):
            change(image, path, source)
        made = maker.make(path)
        assert made.disk == content([image]), f"{TOLD}, turn {turn}"
        assert maker.compressed <= 3 * changes, f"{TOLD}, turn {turn}"
        assert made.copied > BLOCK


def test_what_did_not_change_is_neither_compressed_nor_sent(tmp_path: Path, image: Vdi) -> None:
    maker, path = Maker(tmp_path), tmp_path / "disk.vdi"
    first = maker.make(path)
    assert (maker.compressed, first.copied, first.parts) == (grains_of(image), 0, None)
    second = maker.make(path)
    assert second.disk == content([image])
    assert maker.compressed == 0
    assert second.copied > 0.9 * (second.ova.stat().st_size - 200_000)
    third = maker.make(path)
    assert third.disk == content([image])
    assert maker.compressed == 0, "what was taken over is known by the next copy as well"


@pytest.mark.slow
def test_blocks_that_come_and_go_at_random_are_where_they_are_now(tmp_path: Path) -> None:
    """Above a base that stays: data, zeros, and blocks of the base that can be seen again."""
    source = random.Random(SEED)
    base = Vdi(40 * BLOCK, {n: pattern(n, BLOCK) for n in range(40) if n % 3}, BLOCK)
    path, leaf = tmp_path / "disk.vdi", tmp_path / "leaf.vdi"
    base.write(path)
    maker = Maker(tmp_path, aligned=bool(SEED % 2))
    for turn in range(8):
        blocks: dict[int, bytes | int] = {
            n: source.choice([ZERO, bytes(BLOCK), pattern(source.randrange(50), BLOCK)])
            for n in source.sample(range(40), source.randrange(8))
        }
        child = base.child(blocks)
        child.write(leaf)
        assert maker.make(leaf, path).disk == content([child, base]), f"{TOLD}, turn {turn}"


def test_grains_that_change_places_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """A digest counts for the grain of its number only."""
    first, second = pattern(1, BLOCK), pattern(2, BLOCK)
    turned = first[GRAIN:] + first[:GRAIN]  # within one block
    path, maker = tmp_path / "disk.vdi", Maker(tmp_path)
    for blocks in ((first, second), (second, first), (second, turned), (first, first)):
        image = Vdi(3 * BLOCK, dict(enumerate(blocks)), BLOCK)
        image.write(path)
        assert maker.make(path).disk == content([image])


def _older(maker: Maker, kept: Path) -> None:
    shutil.copyfile(kept, maker.file)


def _cut(maker: Maker, _: Path) -> None:
    os.truncate(maker.file, (1 << 16) + 20 * 7 + 3)


def _no_header(maker: Maker, _: Path) -> None:
    with maker.file.open("r+b") as file:
        file.write(b"[]" + bytes(500))


def _empty(maker: Maker, _: Path) -> None:
    maker.file.write_bytes(b"")


def _directory(maker: Maker, _: Path) -> None:
    maker.file.unlink()
    maker.file.mkdir()


def _pipe(maker: Maker, _: Path) -> None:
    maker.file.unlink()
    os.mkfifo(maker.file)


def _link(maker: Maker, kept: Path) -> None:
    maker.file.unlink()
    maker.file.symlink_to(kept)


def _gone(maker: Maker, _: Path) -> None:
    maker.file.unlink()


def _rotten(maker: Maker, _: Path) -> None:
    source, data = random.Random(SEED), bytearray(maker.file.read_bytes())
    for _turn in range(200):
        data[source.randrange(1 << 16, len(data))] ^= 1 << source.randrange(8)
    maker.file.write_bytes(data)


def _unwritable(maker: Maker, _: Path) -> None:
    shutil.rmtree(maker.file.parent)
    maker.file.parent.write_bytes(b"")


@pytest.mark.parametrize(
    "harm",
    [_older, _cut, _no_header, _empty, _directory, _pipe, _link, _gone, _rotten, _unwritable],
    ids=lambda harm: harm.__name__[1:],
)
def test_digests_that_are_not_those_of_the_copy_before_cost_no_more_than_sending(
    tmp_path: Path, image: Vdi, harm: Callable[[Maker, Path], None]
) -> None:
    maker, path, kept = Maker(tmp_path), tmp_path / "disk.vdi", tmp_path / "kept"
    source = random.Random(SEED)
    maker.make(path)
    shutil.copyfile(maker.file, kept)
    change(image, path, source)
    maker.make(path)
    harm(maker, kept)
    for _ in range(2):
        change(image, path, source)
        assert maker.make(path).disk == content([image]), TOLD


def test_a_worker_that_dies_before_its_digests_are_kept_costs_a_whole_copy(
    tmp_path: Path, image: Vdi
) -> None:
    maker, path = Maker(tmp_path), tmp_path / "disk.vdi"
    maker.make(path)
    maker.make(path, keep=False)
    shutil.copyfile(maker.file, f"{maker.file}.2")
    assert [each.claim for each in digest_files(maker.state, REPOSITORY)] == [0, 2]
    assert maker.make(path).disk == content([image])
    assert maker.compressed == grains_of(image)
    maker.make(path)
    assert maker.compressed == 0


def test_a_disk_that_is_attached_elsewhere_is_sent_whole(tmp_path: Path, image: Vdi) -> None:
    maker, path = Maker(tmp_path), tmp_path / "disk.vdi"
    maker.make(path)
    assert maker.make(path, place="SATA-1-0").disk == content([image])
    assert maker.compressed == grains_of(image)


def test_each_key_is_by_chance_and_stays(tmp_path: Path, image: Vdi) -> None:
    def key(maker: Maker) -> bytes:
        with closing(LastDigests.open(maker.file)) as last:
            return last.hash.key

    def made(name: str) -> Iterator[Maker]:
        (tmp_path / name).mkdir()
        maker = Maker(tmp_path / name)
        for _ in range(2):
            maker.make(tmp_path / "disk.vdi")
            yield maker

    first, second = ([key(maker) for maker in made(name)] for name in ("one", "two"))
    assert first[0] == first[1] != second[0]
    assert len(first[0]) == 32
