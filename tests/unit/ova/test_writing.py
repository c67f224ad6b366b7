"""The archive that is written is the one that the standard library reads, and a failure leaves
nothing.
"""

import errno
import hashlib
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.host.errors import CopyError, NasError
from shared.host.rate_limit import Pace
from shared.host.stages import CancelledError
from shared.ova.ova_writing import OvaWriter
from tests.support.disk_files import pattern

NOSPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_much(archive: OvaWriter, count: int, size: int) -> None:
    archive.begin("disk")
    for _ in range(count):
        archive.write(bytes(size))


def end(archive: OvaWriter) -> None:
    archive.end()
    archive.finish("m")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., OvaWriter]]:
    archives: list[OvaWriter] = []

    def archive(cancelled: threading.Event | None = None, **seams: Any) -> OvaWriter:
        event = cancelled or threading.Event()
        archives.append(
            OvaWriter(tmp_path / "x.ova", modified=1_700_000_000, cancelled=event, **seams)
        )
        return archives[-1]

    yield archive
    for made in archives:
        made.discard()


@pytest.mark.broad
def test_what_is_written_goes_at_the_pace_of_the_host_and_is_flushed_each_second(
    tmp_path: Path, make: Callable[..., OvaWriter]
) -> None:
    counts: list[int] = []
    flushed: list[int] = []

    class Counted(Pace):
        bytes_per_second = 1_000_000

        def wait(self, count: int) -> None:
            counts.append(count)

    source = tmp_path / "before"
    source.write_bytes(pattern(1, 500_000))
    archive = make(pace=Counted(), flush=flushed.append)
    archive.begin("vm-disk001.vmdk")
    for number in range(40):
        archive.write(pattern(number, 100_000))
    with source.open("rb") as file:
        archive.copy(source.read_bytes(), file.fileno(), 0)
        archive.end()
        archive.finish("vm.mf")
        assert archive.close()
    assert sum(counts) == (tmp_path / "x.ova").stat().st_size - 500_000
    assert len(flushed) >= 4


def test_what_waits_for_its_turn_does_not_hold_up_the_end(
    tmp_path: Path, make: Callable[..., OvaWriter]
) -> None:
    """Neither is the file left there: a writer that waits is not a storage that hangs."""
    waits = threading.Event()

    class Standing(Pace):
        bytes_per_second = 1

        def wait(self, _count: int) -> None:
            waits.set()
            while not self.should_stop():
                time.sleep(0.01)

    archive = make(pace=Standing(), end_seconds=600)
    archive.begin("disk")
    archive.write(bytes(100))
    archive.end()
    assert waits.wait(600)
    archive.discard()
    assert not (tmp_path / "x.ova").exists()


@pytest.mark.broad
def test_members_and_manifest(tmp_path: Path, make: Callable[..., OvaWriter]) -> None:
    archive = make()
    archive.add("vm.ovf", b"<xml/>")
    archive.begin("vm-disk001.vmdk")
    for number in range(40):
        archive.write(pattern(number, 100_000 + number))
    archive.end()
    archive.add("empty", b"")
    members = archive.finish("vm.mf")
    assert archive.close()
    with tarfile.open(tmp_path / "x.ova") as tar:
        contents = {info.name: tar.extractfile(info).read() for info in tar if info.isreg()}  # type: ignore[union-attr]
    assert (
        list(contents)
        == ["vm.ovf", "vm-disk001.vmdk", "empty", "vm.mf"]
        == [member.name for member in members]
    )
    assert contents["vm-disk001.vmdk"] == b"".join(
        pattern(number, 100_000 + number) for number in range(40)
    )
    lines = [
        f"SHA256 ({name}) = {hashlib.sha256(data).hexdigest()}"
        for name, data in contents.items()
        if name != "vm.mf"
    ]
    assert contents["vm.mf"].decode().splitlines() == lines
    data = (tmp_path / "x.ova").read_bytes()
    assert len(data) == archive.position == archive.stored
    assert data.endswith(bytes(1024))
    for member in members:
        assert (
            hashlib.sha256(data[member.position : member.position + member.size]).hexdigest()
            == member.sha256
        )


def test_the_file_is_private_and_never_replaces_another(
    tmp_path: Path, make: Callable[..., OvaWriter]
) -> None:
    make()
    assert (tmp_path / "x.ova").stat().st_mode & 0o777 == 0o600
    with pytest.raises(NasError, match="File exists"):
        OvaWriter(tmp_path / "x.ova", modified=0, cancelled=threading.Event())
    assert (tmp_path / "x.ova").exists()


@pytest.mark.broad
@pytest.mark.parametrize("call", ["pwrite", "flush"])
def test_a_full_storage_is_told_and_the_file_removed(
    tmp_path: Path, make: Callable[..., OvaWriter], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> int:
        raise NOSPACE

    if call == "pwrite":
        monkeypatch.setattr(os, "pwrite", full)
    archive = make(**({"flush": full} if call == "flush" else {}))
    with pytest.raises(NasError, match="No space left on device"):
        write_much(archive, 500, 2**20)
    archive.discard()
    assert list(tmp_path.iterdir()) == []


def test_short_writes_are_completed(
    tmp_path: Path, make: Callable[..., OvaWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda descriptor, data, position: whole(descriptor, data[:1000], position)
    )
    archive = make()
    archive.add("a", pattern(1, 12_345))
    archive.finish("m")
    archive.close()
    with tarfile.open(tmp_path / "x.ova") as tar:
        assert tar.extractfile("a").read() == pattern(1, 12_345)  # type: ignore[union-attr]


def test_a_hanging_storage_does_not_hold_up_cancelling_and_keeps_its_file_number(
    tmp_path: Path, make: Callable[..., OvaWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that is given to another file while a thread still writes to it would put the disk
    into that file.
    """
    cancelled, hang, whole = threading.Event(), threading.Event(), os.pwrite

    def slow(descriptor: int, data: bytes, position: int) -> int:
        hang.wait(20)
        return whole(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", slow)
    archive = make(cancelled, end_seconds=0.2)
    threading.Timer(0.2, cancelled.set).start()
    start = time.monotonic()
    with pytest.raises(CancelledError):
        write_much(archive, 100, 1000)
    archive.discard()
    assert time.monotonic() - start < 2
    others = [os.open(tmp_path / f"{number}", os.O_CREAT | os.O_RDWR) for number in range(3)]
    hang.set()
    archive.discard()
    assert [os.fstat(other).st_size for other in others] == [0, 0, 0]
    for other in others:
        os.close(other)


def test_ranges_are_copied_by_the_file_system_and_hashed_here(
    tmp_path: Path, make: Callable[..., OvaWriter]
) -> None:
    old = tmp_path / "old"
    old.write_bytes(b"x" * 700 + pattern(5, 300_000))
    archive = make()
    archive.begin("disk")
    with old.open("rb") as source:
        archive.copy(pattern(5, 300_000), source.fileno(), 700)
        archive.write(b"new" * 1000)
        member = archive.end()
        archive.finish("m")
    archive.close()
    assert archive.copied == 300_000
    data = (tmp_path / "x.ova").read_bytes()[member.position : member.position + member.size]
    assert data == pattern(5, 300_000) + b"new" * 1000
    assert hashlib.sha256(data).hexdigest() == member.sha256


def test_a_source_that_became_shorter_is_an_error(
    tmp_path: Path, make: Callable[..., OvaWriter]
) -> None:
    (tmp_path / "old").write_bytes(b"x" * 100)
    archive = make()
    archive.begin("disk")
    with (tmp_path / "old").open("rb") as source:
        archive.copy(bytes(1000), source.fileno(), 0)
        with pytest.raises(CopyError, match="shorter"):
            end(archive)
