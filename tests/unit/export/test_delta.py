"""Copies that share their bytes with the copy before.

Whole and right whatever the index says, and sent wherever it cannot be used.
"""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.export.delta import Delta, DeltaPlan, refusal
from shared.export.parallel import ParallelExport, ParallelExporter
from shared.host.clock import SystemClock
from shared.host.errors import CopyError, NasError
from shared.ova.index import GrainIndex, grain_digest
from shared.virtualbox.export_errors import ExportError
from tests.support.disk_files import ZERO, Vdi, VmdkReader, content, pattern
from tests.support.engine_copies import disk, make
from tests.support.waiting import ended
from tests.unit.export.conftest import FakeVirtualBox

BLOCK = 65536


@pytest.mark.broad
def test_the_first_copy_is_sent_and_gets_an_index(tmp_path: Path) -> None:
    first = make(tmp_path, "1", {"SATA-0-0": disk()})
    assert (first.copied, first.sent) == (0, "there is no copy before it")
    assert VmdkReader(first.disks()[0]).disk(64 * BLOCK) == content([disk()])
    index = GrainIndex.open(first.index)
    section = index.section("SATA-0-0")
    assert section is not None
    data = first.ova.read_bytes()
    records = list(index.records(section))
    assert [record.grain for record in records] == list(range(40))
    for record in records:
        start = section.position + record.sector * 512
        size = int.from_bytes(data[start + 8 : start + 12], "little")
        assert grain_digest(data[start : start + -(-(size + 12) // 512) * 512]) == record.digest
    index.close()


@pytest.mark.broad
def test_only_the_change_is_sent(tmp_path: Path) -> None:
    first = make(tmp_path, "1", {"a": disk()})
    second = make(tmp_path, "2", {"a": disk(b7=3, b8=0, b50=9)}, first)
    assert second.sent == ""
    assert VmdkReader(second.disks()[0]).disk(64 * BLOCK) == content([disk(b7=3, b8=0, b50=9)])
    sent = second.ova.stat().st_size - second.copied
    assert sent < 2 * BLOCK + 128 * 512 + 6000, "two grains, the beginning, tables and the manifest"


@pytest.mark.broad
def test_a_third_copy_uses_the_second(tmp_path: Path) -> None:
    first = make(tmp_path, "1", {"a": disk()})
    second = make(tmp_path, "2", {"a": disk(b0=1)}, first)
    first.ova.unlink()
    third = make(tmp_path, "3", {"a": disk(b0=1, b39=2)}, second)
    assert third.copied > 0.8 * third.ova.stat().st_size
    assert VmdkReader(third.disks()[0]).disk(64 * BLOCK) == content([disk(b0=1, b39=2)])


@pytest.mark.broad
def test_aligned_copies_are_copied_in_whole_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems share blocks of 4096 bytes, and only where both ranges begin at one."""
    ranges: list[tuple[int, int, int]] = []
    copy_file_range = os.copy_file_range

    def copy(source: int, target: int, count: int, source_position: int, position: int) -> int:
        ranges.append((source_position % 4096, position % 4096, count))
        return copy_file_range(source, target, count, source_position, position)

    monkeypatch.setattr(os, "copy_file_range", copy)
    first = make(tmp_path, "1", {"a": disk()}, aligned=True)
    second = make(tmp_path, "2", {"a": disk(b7=3, b30=4)}, first, aligned=True)
    assert VmdkReader(second.disks()[0]).disk(64 * BLOCK) == content([disk(b7=3, b30=4)])
    assert [(source, target, count % 4096) for source, target, count in ranges] == [
        (0, 0, 0)
    ] * 3, "each before, between and after"


@pytest.mark.broad
def test_a_nas_that_does_not_copy_is_told_from_one_that_does_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(tmp_path, "1", {"a": disk()})
    for number, kind in (
        (errno.EOPNOTSUPP, CopyError),
        (errno.EIO, CopyError),
        (errno.ENOSPC, NasError),
    ):

        def refuse(*_: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "copy_file_range", refuse)
        with pytest.raises(kind, match=os.strerror(number)):
            make(tmp_path, str(number), {"a": disk()}, first)


@pytest.mark.broad
def test_disks_are_told_apart_by_their_place(tmp_path: Path) -> None:
    first = make(tmp_path, "1", {"a": disk(), "b": disk(b1=1, b2=2)})
    second = make(tmp_path, "2", {"b": disk(b1=1, b2=2), "c": disk(), "a": disk(b3=3)}, first)
    sizes = [VmdkReader(data).disk(64 * BLOCK) for data in second.disks()]
    assert sizes == [content([image]) for image in (disk(b1=1, b2=2), disk(), disk(b3=3))]
    assert 1.8 < second.copied / (first.copied or first.ova.stat().st_size / 2) < 2.1, (
        "a and b, not c"
    )


BLOCKS = st.dictionaries(st.integers(0, 20), st.integers(0, 3), max_size=21)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BLOCKS, BLOCKS)
@pytest.mark.slow
def test_any_disk_after_any_other_is_right(
    tmp_path: Path, old: dict[int, int], new: dict[int, int]
) -> None:
    """And exactly the grains that are equal in the same place are copied."""
    for file in tmp_path.iterdir():
        file.unlink()
    before, after = (
        Vdi(
            21 * BLOCK,
            {number: pattern(seed, BLOCK) if seed else ZERO for number, seed in blocks.items()},
        )
        for blocks in (old, new)
    )
    first = make(tmp_path, "1", {"a": before})
    second = make(tmp_path, "2", {"a": after}, first)
    assert VmdkReader(second.disks()[0]).disk(21 * BLOCK) == content([after])
    equal = {number for number, seed in new.items() if seed and old.get(number) == seed}
    assert (second.copied > 0) == bool(equal)
    assert second.copied <= len(equal) * BLOCK


@pytest.mark.broad
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda copy: copy.index.unlink(), "there is no index of it"),
        (lambda copy: copy.index.write_bytes(b"{}"), "no header"),
        (lambda copy: copy.index.write_bytes(copy.index.read_bytes()[:-1]), "cut off"),
        (lambda copy: flip(copy.index, -3), "damaged"),
        (
            lambda copy: copy.index.write_bytes(
                copy.index.read_bytes().replace(b'"format": 2', b'"format": 3')
            ),
            "is damaged",
        ),
        (
            lambda copy: os.truncate(copy.ova, copy.ova.stat().st_size - 512),
            "belongs to another file",
        ),
        (lambda copy: flip(copy.ova, -1024 - 512 + 20), "belongs to another file"),
        (lambda copy: copy.ova.unlink(), "No such file"),
    ],
    ids=[
        "no index",
        "no header",
        "cut off",
        "damaged",
        "format",
        "shorter copy",
        "other manifest",
        "no copy",
    ],
)
def test_what_cannot_be_used_is_not(tmp_path: Path, damage: object, reason: str) -> None:
    first = make(tmp_path, "1", {"a": disk()})
    assert callable(damage)
    damage(first)
    second = make(tmp_path, "2", {"a": disk()}, first)
    assert reason in second.sent
    assert second.copied == 0
    assert VmdkReader(second.disks()[0]).disk(64 * BLOCK) == content([disk()])


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.broad
def test_each_nth_copy_is_sent_whole(tmp_path: Path) -> None:
    copies = [make(tmp_path, "0", {"a": disk()}, whole_every=3)]
    for number in range(1, 7):
        copies.append(make(tmp_path, str(number), {"a": disk()}, copies[-1], whole_every=3))
    assert [copy.copied > 0 for copy in copies] == [False, True, True, False, True, True, False]
    assert copies[3].sent == "one of 3 copies is sent whole"


@pytest.mark.broad
def test_rot_in_the_copy_before_is_found_by_the_manifest(tmp_path: Path) -> None:
    """The digests are those of the bytes that were read here, so whoever checks the new copy sees
    that it is not made of them.
    """
    first = make(tmp_path, "1", {"a": disk()})
    flip(first.ova, 200_000)
    second = make(tmp_path, "2", {"a": disk()}, first)
    with pytest.raises(AssertionError):
        second.disks()


def test_a_copy_on_another_file_system_is_not_used(tmp_path: Path) -> None:
    plan = DeltaPlan(tmp_path / "i", Path("/proc/self/status"), tmp_path / "old.index")
    assert refusal(plan, tmp_path / "new") == "the copy before it is on another file system"


def test_an_index_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "i").write_text("precious")
    with pytest.raises(NasError, match="File exists"):
        Delta(DeltaPlan(tmp_path / "i"), tmp_path / "new")
    assert (tmp_path / "i").read_text() == "precious"


def test_an_index_without_its_header_is_none(tmp_path: Path) -> None:
    with Delta(DeltaPlan(tmp_path / "i"), tmp_path / "new"):
        pass
    with pytest.raises(CopyError, match="no header"):
        GrainIndex.open(tmp_path / "i")


@pytest.mark.slow
def test_whole_exports_with_an_index_and_their_failure(
    virtualbox: FakeVirtualBox, tmp_path: Path
) -> None:
    image = disk()
    virtualbox.add_disk(image)
    machine = virtualbox.machine

    def start(name: str, plan: DeltaPlan) -> ParallelExport:
        exporter = ParallelExporter(
            virtualbox.vboxmanage, SystemClock(), scratch=tmp_path / "scratch", cores=2, plan=plan
        )
        return exporter.start(machine, tmp_path / name)

    plans = [DeltaPlan(tmp_path / "1.index")]
    plans.append(DeltaPlan(tmp_path / "2.index", tmp_path / "1.ova", tmp_path / "1.index"))
    summaries = []
    for number, plan in enumerate(plans, 1):
        summaries.append(ended(start(f"{number}.ova", plan)).summary())
    assert [summary.copied_bytes > 0.8 * summary.size for summary in summaries] == [False, True]
    assert [summary.sent for summary in summaries] == ["there is no copy before it", ""]
    virtualbox.behave(lost=True)
    export = ended(start("3.ova", replace(plans[1], index=tmp_path / "3.index")))
    with pytest.raises(ExportError, match="was lost"):
        export.result()
    assert sorted(path.name for path in tmp_path.glob("[0-9].*")) == [
        "1.index",
        "1.ova",
        "2.index",
        "2.ova",
    ]
