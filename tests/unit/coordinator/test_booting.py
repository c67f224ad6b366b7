"""Disks that are read while they are filled: their bytes, and what is wrong, never zeros."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from coordinator.booting import served_disk
from coordinator.booting.filling import Filler
from coordinator.booting.laying_out import lay_out
from coordinator.booting.served_disk import NoRoomError, ServedDisk
from coordinator.mounting.steady_copy import GoneError, SteadyCopy
from shared.host.errors import CopyError, DiskImageError, NasError
from shared.ova.disk_reader import open_copy
from shared.ova.vdi_writing import BLOCK, TargetError
from tests.support import engine_copies
from tests.support.copies import ova, tar_file, vmdk
from tests.support.disk_files import content
from tests.support.packages import require
from tests.support.waiting import wait_for
from tests.unit.coordinator.test_mounting import fuse

__all__ = ["fuse"]

GRAIN = 65536
DATA = random.Random(3).randbytes(GRAIN)
#: Blocks 0, 2 and 6 of a disk of 8 MiB and one grain, whose last block is a short one.
GRAINS = {0: DATA, 3: DATA[::-1], 40: b"x" * GRAIN, 47: DATA, 100: DATA[5:] + DATA[:5], 128: DATA}
DISK = b"".join(GRAINS.get(number, bytes(GRAIN)) for number in range(129))
IDENTIFIER = UUID(int=7)
LAID_OUT = 4


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    path = tmp_path / "copy.ova"
    path.write_bytes(ova(vmdk(GRAINS, 129)))
    return path


@pytest.fixture
def file(copy: Path, tmp_path: Path) -> Path:
    path = tmp_path / "disk.partial"
    with open_copy(copy) as reader:
        lay_out(reader.disks[0], path, IDENTIFIER)
    return path


@pytest.fixture
def serve(copy: Path, file: Path) -> Iterator[Callable[[], ServedDisk]]:
    with contextlib.ExitStack() as stack:
        steady = stack.enter_context(SteadyCopy(copy))

        def start() -> ServedDisk:
            return stack.enter_context(
                ServedDisk(file, lambda offset, length: steady.read(1, offset, length))
            )

        yield start


def raw(path: Path) -> bytes:
    """What another program finds on the disk in an image of VirtualBox."""
    require("qemu-img", "qemu-utils")
    target = path.parent.parent / "raw"
    subprocess.run(["qemu-img", "check", path], check=True, capture_output=True)
    subprocess.run(
        ["qemu-img", "convert", "-f", "vdi", "-O", "raw", path, target], check=True, timeout=60
    )
    return target.read_bytes()


class EndsInThePause(threading.Event):
    """A filler is stopped after it has tried everything once."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return super().wait(timeout)


class TestServed:
    @pytest.mark.broad
    def test_any_part_is_the_same_before_and_after_it_is_local(
        self, serve: Callable[[], ServedDisk], file: Path
    ) -> None:
        filled = serve()
        for number in range(filled.blocks):
            filled.make_local(number)
        filled.flush()
        want = file.read_bytes()
        assert filled.size == len(want) == BLOCK * (LAID_OUT + 1)
        served_disk.digests_of(file).unlink()
        chance = random.Random(11)
        for _ in range(40):
            disk = serve()
            for _ in range(3):
                at = chance.randrange(len(want) + 5)
                length = chance.choice((1, 512, 4096, BLOCK, 3 * BLOCK))
                assert disk.read(at, length) == want[at : at + length]
            with contextlib.suppress(FileNotFoundError):
                served_disk.digests_of(file).unlink()

    @pytest.mark.broad
    def test_a_filled_file_is_the_disk(self, serve: Callable[[], ServedDisk], file: Path) -> None:
        disk = serve()
        filler = Filler([disk])
        assert filler.run()
        assert (filler.filled, filler.total) == (LAID_OUT * BLOCK, LAID_OUT * BLOCK)
        assert raw(file).startswith(DISK)

    def test_it_is_not_whole_before_every_block_is_there(
        self, serve: Callable[[], ServedDisk]
    ) -> None:
        disk = serve()
        disk.make_local(1)
        with pytest.raises(ValueError, match="3 blocks"):
            disk.flush()

    def test_a_block_that_a_crash_has_torn_is_fetched_again(
        self, serve: Callable[[], ServedDisk], file: Path
    ) -> None:
        first = serve()
        assert Filler([first]).run()
        want = file.read_bytes()
        torn = bytearray(want)
        torn[2 * BLOCK + 4096 : 2 * BLOCK + 8192] = bytes(4096)
        file.write_bytes(torn)
        again = serve()
        assert again.read(0, len(want)) == want
        assert file.read_bytes() == want

    def test_what_was_filled_is_not_fetched_again(
        self, serve: Callable[[], ServedDisk], file: Path
    ) -> None:
        assert Filler([serve()]).run()
        asked = list[int]()
        with ServedDisk(file, lambda offset, length: asked.append(offset) or bytes(length)) as disk:  # type: ignore[func-returns-value]
            assert Filler([disk]).run()
        assert asked == []

    @pytest.mark.parametrize("error", [NasError("away"), CopyError("damaged"), GoneError("other")])
    def test_what_cannot_be_fetched_is_an_error_and_stays_missing(
        self, file: Path, error: Exception
    ) -> None:
        def fail(_offset: int, _length: int) -> bytes:
            raise error

        with ServedDisk(file, fail) as disk:
            assert disk.read(0, BLOCK) == file.read_bytes()[:BLOCK]
            with pytest.raises(type(error)):
                disk.read(2 * BLOCK, 1)
            with pytest.raises(type(error)):
                disk.make_local(1)
            filler = Filler([disk], ended=EndsInThePause())
            assert not filler.run()
            assert filler.problem == str(getattr(error, "message", error))
            assert filler.filled == 0

    def test_a_copy_that_gives_too_little_is_an_error(self, file: Path) -> None:
        with ServedDisk(file, lambda _offset, length: bytes(length - 1)) as disk:
            with pytest.raises(CopyError, match="ends at byte"):
                disk.read(2 * BLOCK, 1)
            assert disk.filled == 0

    def test_a_full_disk_keeps_nobody_from_reading(
        self,
        serve: Callable[[], ServedDisk],
        file: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        full = [True]
        write = os.pwrite

        def pwrite(descriptor: int, data: bytes, place: int) -> int:
            if full[0]:
                raise OSError(errno.ENOSPC, "full")
            return write(descriptor, data, place)

        monkeypatch.setattr(os, "pwrite", pwrite)
        disk = serve()
        assert disk.read(BLOCK, GRAIN) == DATA
        with pytest.raises(TargetError, match="full"):
            disk.make_local(0)
        assert disk.filled == 0
        full[0] = False
        assert disk.read(BLOCK, GRAIN) == DATA
        assert disk.filled == 1
        assert file.read_bytes()[BLOCK : BLOCK + GRAIN] == DATA

    def test_a_file_that_was_cut_off_is_an_error(
        self, serve: Callable[[], ServedDisk], file: Path
    ) -> None:
        disk = serve()
        assert Filler([disk]).run()
        os.truncate(file, 2 * BLOCK)
        with pytest.raises(OSError, match="shorter"):
            disk.read(2 * BLOCK, 1)
        with pytest.raises(TargetError, match="length"):
            disk.flush()

    @pytest.mark.parametrize(
        ("place", "kind", "said"),
        [
            (0x40, DiskImageError, "this is no VDI file"),
            (0x170, DiskImageError, "a disk of 99 bytes"),
            (512, CopyError, "the map of a disk that is being filled is damaged"),
            (520, CopyError, "the map of a disk that is being filled is damaged"),
        ],
    )
    def test_a_file_with_another_header_or_map_is_refused(
        self,
        file: Path,
        place: int,
        kind: type[Exception],
        said: str,
        serve: Callable[[], ServedDisk],
    ) -> None:
        with file.open("r+b") as opened:
            opened.seek(place)
            opened.write(b"\x63\0\0\0")
        with pytest.raises(kind) as raised:
            serve()
        assert str(raised.value) == said

    def test_a_block_that_is_local_is_read_while_the_copy_is_waited_for(self, file: Path) -> None:
        asked, back = threading.Event(), threading.Event()

        def fetch(offset: int, length: int) -> bytes:
            if offset == 6 * BLOCK:
                asked.set()
                back.wait(60)
            return DISK[offset : offset + length]

        with ServedDisk(file, fetch, locks=1) as disk, ServedDisk(file, fetch, locks=1) as again:
            for each in (disk, again):
                disk.make_local(0)  # `again` has to find it by its digest
                with ThreadPoolExecutor(2) as pool:
                    try:
                        waits = pool.submit(each.read, 3 * BLOCK, 1)
                        assert asked.wait(60)
                        read = pool.submit(each.read, BLOCK, GRAIN)
                        assert read.result(60) == DATA
                        assert not waits.done()
                    finally:
                        back.set()
                    assert waits.result(60)
                asked.clear()
                back.clear()
                os.truncate(served_disk.digests_of(file), 16)

    def test_what_is_forgotten_while_it_is_read_is_no_hole(
        self, serve: Callable[[], ServedDisk], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_descriptor: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        disk = serve()
        assert Filler([disk]).run()
        read, forgotten = os.pread, list[bool]()

        def pread(descriptor: int, length: int, place: int) -> bytes:
            if not forgotten:
                forgotten.append(True)
                with monkeypatch.context() as broken:
                    broken.setattr(os, "fsync", refuse)
                    with pytest.raises(TargetError):
                        disk.flush()
            return read(descriptor, length, place)

        monkeypatch.setattr(os, "pread", pread)
        assert disk.read(BLOCK, GRAIN) == DATA
        assert forgotten

    def test_room_for_the_guest_stays_free(self, file: Path, copy: Path) -> None:
        with SteadyCopy(copy) as steady:

            def fetch(offset: int, length: int) -> bytes:
                return steady.read(1, offset, length)

            with ServedDisk(file, fetch, spare=1 << 60) as disk:
                assert disk.read(BLOCK, GRAIN) == DATA
                with pytest.raises(NoRoomError, match="would be free") as raised:
                    disk.make_local(0)
                assert raised.value.message.startswith("no room: ")
                assert (disk.filled, disk.room) == (0, 0)
                assert Filler([disk]).short == LAID_OUT * BLOCK

    def test_nothing_is_laid_out_over_another_file(self, copy: Path, file: Path) -> None:
        with open_copy(copy) as reader, pytest.raises(TargetError):
            lay_out(reader.disks[0], file, IDENTIFIER)

    @pytest.mark.broad
    def test_a_copy_of_the_engine_with_an_index(self, tmp_path: Path) -> None:
        image = engine_copies.disk(b3=0, b33=9)
        made = engine_copies.make(tmp_path, "made", {"SATA-0-0": image})
        path = tmp_path / "room" / "disk.partial"
        path.parent.mkdir()
        with SteadyCopy(made.ova) as steady:
            reader = steady.reader()
            assert reader.disks[0].indexed
            lay_out(reader.disks[0], path, IDENTIFIER)
            with ServedDisk(path, lambda at, length: steady.read(1, at, length)) as disk:
                assert Filler([disk]).run()
        assert raw(path) == content([image])


class TestFiller:
    @contextlib.contextmanager
    def running(self, filler: Filler) -> Iterator[Future[bool]]:
        """It fills in a thread, which ends whatever the test finds."""
        with ThreadPoolExecutor(1) as pool:
            try:
                yield pool.submit(filler.run)
            finally:
                filler.stop()

    def test_it_goes_on_when_the_nas_is_back(self, file: Path, copy: Path) -> None:
        away = threading.Event()
        away.set()
        with SteadyCopy(copy) as steady:

            def fetch(offset: int, length: int) -> bytes:
                if away.is_set():
                    raise NasError("away")
                return steady.read(1, offset, length)

            with ServedDisk(file, fetch) as disk:
                filler = Filler([disk], again_seconds=0.01)
                with self.running(filler) as result:
                    wait_for(lambda: filler.problem == "away")
                    assert disk.filled == 0
                    away.clear()
                    assert result.result(60)
                assert filler.problem == ""

    def test_it_is_stopped(self, file: Path) -> None:
        def fail(_offset: int, _length: int) -> bytes:
            raise NasError("away")

        with ServedDisk(file, fail) as disk:
            filler = Filler([disk])
            with self.running(filler) as result:
                wait_for(lambda: filler.problem)
                filler.stop()
                assert not result.result(60)

    def test_what_the_disk_did_not_take_is_fetched_anew(
        self, file: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sync, failures = os.fsync, [OSError(errno.EIO, "lost")]

        def fsync(descriptor: int) -> None:
            if failures:
                with file.open("r+b") as opened:
                    opened.seek(2 * BLOCK)
                    opened.write(bytes(BLOCK))
                raise failures.pop()
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        asked = list[int]()
        with SteadyCopy(copy) as steady:

            def fetch(offset: int, length: int) -> bytes:
                asked.append(offset // BLOCK)
                return steady.read(1, offset, length)

            with ServedDisk(file, fetch) as disk:
                assert Filler([disk], again_seconds=0).run()
        assert sorted(asked) == sorted([0, 2, 6, 8] * 2)
        assert raw(file).startswith(DISK)

    def test_a_disk_that_did_not_take_it_is_not_believed_by_the_next_server(
        self, serve: Callable[[], ServedDisk], file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk = serve()
        for number in range(disk.blocks):
            disk.make_local(number)

        def fsync(_descriptor: int) -> None:
            raise OSError(errno.EIO, "lost")

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(TargetError, match="lost"):
            disk.flush()
        assert disk.filled == 0
        assert served_disk.digests_of(file).read_bytes() == b""
        assert file.stat().st_size == BLOCK * (LAID_OUT + 1)

    def test_a_full_disk_is_not_tried_for_every_block(
        self, serve: Callable[[], ServedDisk], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = list[int]()

        def full(_disk: ServedDisk, number: int) -> None:
            tried.append(number)
            raise NoRoomError(OSError(errno.ENOSPC, "full"), Path("disk"))

        monkeypatch.setattr(ServedDisk, "make_local", full)
        pauses = list[float | None]()

        class Passing(threading.Event):
            """Time passes at once; after seven pauses it is stopped."""

            def wait(self, timeout: float | None = None) -> bool:
                pauses.append(timeout)
                if len(pauses) == 7:
                    filler.stop()
                return True

        filler = Filler([serve()], threads=1, ended=Passing())
        assert not filler.run()
        assert tried == [0] * 7
        assert pauses == [5, 10, 20, 40, 80, 80, 80]
        assert filler.problem == "no room: cannot write disk: full"

    def test_its_rate(self, serve: Callable[[], ServedDisk]) -> None:
        now = [0.0]
        filler = Filler([serve()], clock=lambda: now[0])
        assert filler.run()
        now[0] = 2
        assert filler.rate == LAID_OUT * BLOCK / 2


SERVER = """
import os, sys
os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
import mfusepy
from pathlib import Path
from coordinator.booting.served_disk import ServedDisk
from coordinator.mounting.steady_copy import SteadyCopy
from coordinator.fuse.file_operations import Operations
file, copy, place = map(Path, sys.argv[1:])
with SteadyCopy(copy) as steady:
    with ServedDisk(file, lambda at, length: steady.read(1, at, length)) as disk:
        mfusepy.FUSE(Operations({"disk.vdi": disk}, lambda _, at, length: disk.read(at, length),
                                moment=0, ready=lambda: print("ready", flush=True)),
                     str(place), foreground=True, ro=True, subtype="vmbackup")
"""


@pytest.mark.slow
@pytest.mark.usefixtures("fuse")
class TestMounted:
    """The served file, by the kernel, and by another program that reads VDI."""

    @contextlib.contextmanager
    def served(self, *paths: Path) -> Iterator["subprocess.Popen[bytes]"]:
        """Its server, which ends whatever the test finds: unmounted, if it still lives then."""
        words = [sys.executable, "-P", "-c", SERVER, *map(str, paths)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
            try:
                assert child.stdout
                assert child.stdout.readline() == b"ready\n"
                yield child
                if child.poll() is None:
                    subprocess.run(["fusermount3", "-u", paths[-1]], check=True)
                    assert child.wait(30) == 0
            finally:
                child.kill()

    def test_it_is_the_disk_and_its_name_is_gone_with_the_server(
        self, copy: Path, file: Path, tmp_path: Path
    ) -> None:
        place = tmp_path / "place"
        place.mkdir()
        with self.served(file, copy, place):
            assert raw(place / "disk.vdi").startswith(DISK)
            with pytest.raises(OSError, match=r"Read-only|denied|not permitted|not implemented"):
                (place / "disk.vdi").unlink()
            with pytest.raises(OSError, match=r"Read-only|denied|not permitted"):
                (place / "disk.vdi").open("r+b")
        assert list(place.iterdir()) == []
        with self.served(file, copy, place) as child:
            child.send_signal(signal.SIGKILL)
            child.wait(30)
            wait_for(lambda: self.dead(place))
            subprocess.run(["fusermount3", "-uz", place], check=True)
        assert list(place.iterdir()) == []

    def dead(self, place: Path) -> Any:
        try:
            (place / "disk.vdi").open("rb").close()
        except OSError as error:
            return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        return False

    def test_a_damaged_block_is_an_error_and_the_others_are_read(
        self, tmp_path: Path, copy: Path, file: Path
    ) -> None:
        place = tmp_path / "place"
        place.mkdir()
        data = bytearray(vmdk(GRAINS, 129))
        at = next(
            at
            for at in range(512, len(data), 512)
            if int.from_bytes(data[at : at + 8], "little") == 40 * 128
        )
        data[at + 20] ^= 1
        copy.write_bytes(tar_file([("x.ovf", b"<x/>"), ("x.vmdk", bytes(data))]))
        with (
            self.served(file, copy, place),
            (place / "disk.vdi").open("rb", buffering=0) as opened,
        ):
            assert opened.read(BLOCK)[:3] == b"<<<"
            assert os.pread(opened.fileno(), GRAIN, BLOCK) == DATA
            with pytest.raises(OSError, match="Input/output"):
                os.pread(opened.fileno(), 512, 2 * BLOCK)
