"""What cannot be read of one partition takes nothing else of the copy away."""

import errno
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coordinator.guest import systems
from coordinator.guest.systems import DiskPlace
from coordinator.mounting import shown_files
from coordinator.mounting.shown_files import CopyView
from shared.host.errors import NasError
from shared.ova.block_errors import UnreadBlockError
from shared.ova.disk_reader import CopyReader
from tests.support.lvm_disks import physical_volume

MIB = 1 << 20


def unread(*_: object) -> Exception:
    return UnreadBlockError(OSError(errno.EIO, "Input/output error"), "block 7")


def away(*_: object) -> Exception:
    return NasError("the NAS is away")


class Disk:
    """A disk with three partitions of a MiB each, of which what begins at `bad` is not read."""

    problem = ""

    def __init__(
        self, name: str, bad: int = -1, failure: Callable[..., Exception] = unread
    ) -> None:
        entries = [
            struct.pack("<8B2I", 0, 0, 0, 0, 0x83, 0, 0, 0, at * 2048, 2048) for at in (1, 2, 3)
        ]
        table = bytes(446) + b"".join(entries) + bytes(16) + b"\x55\xaa"
        self.name, self._failure = name, failure
        self.data = bytearray(table.ljust(4 * MIB, b"\0"))
        self.size, self.bad, self.reads = len(self.data), bad, 0

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        if offset <= self.bad < offset + length:
            raise self._failure()
        return bytes(self.data[offset : offset + length])


def copy_of(*disks: Disk) -> CopyReader:
    made: Any = SimpleNamespace(disks=disks, names=(), member=lambda _: b"", close=lambda: None)
    return cast("CopyReader", made)


def shown(*disks: Disk) -> CopyView:
    return CopyView(Path("/none"), lambda _: copy_of(*disks))


def names(copy: CopyReader, wanted: str) -> list[str]:
    return [place.name for place in systems.places(copy, wanted)]


@pytest.mark.parametrize("bad", [0, MIB, 2 * MIB])
def test_a_block_that_cannot_be_read_is_said_where_it_is(bad: int) -> None:
    found = list(systems.places(copy_of(Disk("a"), Disk("b", bad))))
    parts = ["2"] if bad == 0 else ["2.1", "2.2", "2.3"]
    assert [place.name for place in found] == ["1.1", "1.2", "1.3", *parts]
    said = [place.name for place in found if "block 7" in place.found.note]
    assert said == ["2" if bad == 0 else f"2.{bad // MIB}"]


def test_only_the_disk_that_is_asked_for_is_read() -> None:
    one, other = Disk("a"), Disk("b", 0, away)
    assert names(copy_of(one, other), "1") == ["1.1", "1.2", "1.3"]
    assert names(copy_of(one, other), "1.2") == ["1.2"]
    assert other.reads == 0
    with pytest.raises(NasError):
        names(copy_of(one, other), "2")
    with pytest.raises(NasError):
        names(copy_of(one, other), "")


def test_the_group_of_a_disk_that_is_asked_for_is_looked_for_on_all() -> None:
    one, other = Disk("a"), Disk("b")
    text = b'vg { id = "g" seqno = 1 extent_size = 8 physical_volumes { p { id = "%s" ' % (
        b"a" * 32
    )
    text += b"pe_start = 2048 pe_count = 0 } } }"
    one.data[MIB : 2 * MIB] = physical_volume(text, "a" * 32, 2 * MIB)[:MIB]
    found = {place.name: place for place in systems.places(copy_of(one, other), "1")}
    assert str(found["1.1"].found.kind) == "LVM"
    assert other.reads > 0


@pytest.mark.parametrize(("bad", "failure"), [(MIB, unread), (0, unread), (MIB, away)])
def test_a_mount_shows_the_rest_and_says_what_it_does_not(
    bad: int, failure: Callable[..., Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_files, "SteadyCopy", steady)
    mounted = shown(Disk("a", bad, failure), Disk("b"))
    whole = {"disk1.img", "disk2.img", *(f"disk2.part{number}.img" for number in (1, 2, 3))}
    parts = {f"disk1.part{number}.img" for number in (1, 2, 3)}
    assert set(mounted.files) == (whole | parts if (bad, failure) == (MIB, unread) else whole)
    assert (mounted.problems, bool(mounted.unread)) == ([], failure is away)


def test_whatever_goes_wrong_with_volumes_the_disks_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def volumes(_: list[DiskPlace]) -> None:
        raise TypeError("unhashable")

    monkeypatch.setattr(shown_files, "SteadyCopy", steady)
    monkeypatch.setattr(shown_files, "volumes", volumes)
    mounted = shown(Disk("a"))
    assert {"disk1.img", "disk1.part3.img"} <= set(mounted.files)
    assert mounted.unread == ["volumes of LVM: not understood (TypeError: unhashable)"]


def steady(ova: Path, opener: Callable[[Path], CopyReader]) -> Any:
    return SimpleNamespace(reader=lambda: opener(ova))
