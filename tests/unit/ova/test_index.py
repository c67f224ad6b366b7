"""Whatever an index says, opening it ends in an index that is whole, or in one kind of error."""

import hashlib
import json
import os
import struct
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from shared.host.errors import CopyError
from shared.ova.grain_columns import GrainColumns
from shared.ova.index import GrainIndex, IndexRecord
from shared.ova.index_writing import IndexWriter
from shared.ova.ova_writing import WrittenMember

RECORDS = [IndexRecord(number, 3 * number, 2, bytes([number]) * 16) for number in range(10)]
NO_SHA256 = "0" * 64


def by_columns(records: Iterable[IndexRecord]) -> GrainColumns:
    return GrainColumns._make(zip(*map(tuple, records), strict=True))


def write(path: Path) -> dict[str, object]:
    """An index of two disks; the values of its header."""
    with IndexWriter(path) as writer:
        writer.begin("SATA-0-0", 1024)
        for record in RECORDS[:6]:
            writer.add(by_columns([record]))
        writer.begin("SATA-1-0", 4096)
        writer.add(by_columns(RECORDS[6:]))
        writer.finish(3, [WrittenMember("vm.mf", 8192, 100, NO_SHA256)], 9000)
    header: dict[str, object] = json.loads(path.read_bytes()[65:65536])
    return header


def forge(path: Path, text: bytes) -> None:
    """Puts another header, with its right digest, in place of the one that is there."""
    sealed = hashlib.sha256(text).hexdigest().encode() + b" " + text
    path.write_bytes(sealed.ljust(65536) + path.read_bytes()[65536:])


def opened(path: Path) -> list[IndexRecord]:
    index = GrainIndex.open(path)
    try:
        return [record for part in index.header.sections for record in index.records(part)]
    finally:
        index.close()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    header = write(tmp_path / "i")
    assert opened(tmp_path / "i") == RECORDS
    assert list(header)[:3] == ["format", "generation", "ova_bytes"]


def test_fields_from_the_future_are_passed_over(tmp_path: Path) -> None:
    header = write(tmp_path / "i")
    forge(tmp_path / "i", json.dumps({**header, "colour": "blue"}).encode())
    assert opened(tmp_path / "i") == RECORDS


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("format", 3, "another format"),
        ("generation", -1, "generation"),
        ("generation", "3", "no whole number"),
        ("ova_bytes", 2**63, "ova_bytes"),
        ("ova_bytes", 2000, "do not follow"),
        ("manifest_bytes", 2**40, "manifest_bytes"),
        ("manifest_sha256", "x", "no SHA-256"),
        ("sections", None, "no list"),
        ("sections", [{}], "is missing"),
    ],
)
def test_a_header_that_cannot_be(tmp_path: Path, field: str, value: object, reason: str) -> None:
    header = write(tmp_path / "i")
    forge(tmp_path / "i", json.dumps({**header, field: value}).encode())
    with pytest.raises(CopyError, match=reason):
        opened(tmp_path / "i")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("count", 2**62, "cannot be read|cut off"),
        ("first", 1, "do not follow"),
        ("position", 9001, "do not follow"),
        ("sha256", NO_SHA256, "the index is damaged"),
    ],
)
def test_a_section_that_cannot_be(tmp_path: Path, field: str, value: object, reason: str) -> None:
    header = write(tmp_path / "i")
    header["sections"][-1 if field != "first" else 0][field] = value  # type: ignore[index]
    forge(tmp_path / "i", json.dumps(header).encode())
    tracemalloc.start()
    with pytest.raises(CopyError, match=reason):
        opened(tmp_path / "i")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"[" * 60_000, b'{"format": NaN}', b"\xff", b"1" * 9999]
)
def test_a_header_that_is_none(tmp_path: Path, text: bytes) -> None:
    write(tmp_path / "i")
    forge(tmp_path / "i", text)
    with pytest.raises(CopyError, match="no header"):
        opened(tmp_path / "i")


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=9),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner),
    max_leaves=6,
)
FIELDS = ("generation", "ova_bytes", "manifest_position", "manifest_bytes", "sections")


@pytest.mark.broad
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(some.dictionaries(some.sampled_from(FIELDS), JSON | some.integers(0, 2**70), min_size=1))
def test_any_values(tmp_path: Path, values: dict[str, object]) -> None:
    (tmp_path / "i").unlink(missing_ok=True)
    header = write(tmp_path / "i")
    forge(tmp_path / "i", json.dumps({**header, **values}).encode())
    try:
        assert opened(tmp_path / "i") in (RECORDS, [])
    except CopyError:
        return


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CopyError, match="there is no index of it"):
        opened(tmp_path / "i")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "plant",
    [os.mkfifo, os.mkdir, lambda path: path.symlink_to("other")],
    ids=["pipe", "directory", "link"],
)
def test_what_is_no_ordinary_file_is_no_index(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    write(tmp_path / "other")
    plant(tmp_path / "i")
    with pytest.raises(CopyError, match="cannot be read"):
        opened(tmp_path / "i")


def test_an_index_of_the_first_format_is_read_without_lengths(tmp_path: Path) -> None:
    header = write(tmp_path / "i")
    old = b"".join(struct.pack("<II16s", one.grain, one.sector, one.digest) for one in RECORDS)
    sections = header["sections"]
    assert isinstance(sections, list)
    for section in sections:
        start = section["first"] * 24
        part = old[start : start + section["count"] * 24]
        section["sha256"] = hashlib.sha256(part).hexdigest()
    path = tmp_path / "i"
    path.write_bytes(bytes(65536) + old)
    forge(path, json.dumps({**header, "format": 1}).encode())
    assert opened(path) == [record._replace(sectors=0) for record in RECORDS]
    index = GrainIndex.open(path)
    assert not index.has_lengths
    assert index.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    index.close()
