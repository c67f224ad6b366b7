"""A copy as files of this host where mfusepy is not there: by real nbdfuse and qemu-nbd."""

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NoReturn

import pytest

from coordinator import dead_sessions
from coordinator.restore import choice
from shared.host.errors import ConfigurationError, CopyError, ExitCode, LockedError, UsageError
from shared.host.process_identity import is_stopped
from shared.host.processes import SubprocessRunner
from shared.ova.tar import BLOCK
from shared.serving import noted_places, places, starting
from shared.serving.own_directory import wait_for_lock
from shared.serving.ways import PROGRAMS, MountWay, choose
from shared.state.rules import readers
from tests.support import guest_disks
from tests.support.copies import DESCRIPTOR, UUID, ova, put_copy, tar_file, vmdk
from tests.support.lvm_disks import physical_volume
from tests.support.packages import require
from tests.unit.coordinator.conftest import Operator
from tests.unit.coordinator.test_mounting import (
    NEW,
    NOBODY,
    OLD,
    fuse,
    mount,
    sessions,
    site,
    wait_for,
)

__all__ = ["fuse", "site"]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")

GRAIN = guest_disks.GRAIN
GRAINS = {number: os.urandom(GRAIN) for number in (0, 2, 600)}
SECRET = b"a file of the host ".ljust(GRAIN, b"!")


@pytest.fixture
def others(fuse: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """mfusepy is not there, and the other programs are."""
    require("nbdfuse", "libnbd-bin")
    require("qemu-nbd", "qemu-utils")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)


def started(copy: Path, place: Path, **more: object) -> starting.Started:
    place.mkdir(exist_ok=True)
    job = {"ova": str(copy), "place": str(place), "what": f"web:{NEW}", "hold": False, "idle": 60}
    return starting.start({**job, **more}, command=MountWay.OTHERS.server(str(place)))


def gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(") ")[2][0] == "Z"
    return True


def read(disk: Path, grain: int) -> bytes | None:
    """A block of a disk; None if it cannot be read."""
    try:
        with disk.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), GRAIN, grain * GRAIN)
    except OSError:
        return None


def unmounted(place: Path, pid: int) -> None:
    found = places.at(place)
    assert found is not None
    places.unmount(found, SubprocessRunner())
    assert not list(place.iterdir())
    wait_for(lambda: gone(pid))


def children(pid: int) -> list[int]:
    """Those that show the files."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return list(map(int, found.stdout.split()))


@pytest.mark.slow
@pytest.mark.usefixtures("others")
class TestMounted:
    def test_files_are_what_they_were_and_the_copy_is_held(
        self,
        site: tuple[Operator, bytes, Path],
    ) -> None:
        operator, disk, place = site
        assert mount(operator, place, "--dry-run")["way"] == "qemu-nbd"
        assert not list(place.iterdir())
        done = mount(operator, place)
        assert (done["way"], done["held"]) == ("qemu-nbd", True)
        assert any("compared with its digest" in each for each in done["missing"])
        assert os.getsid(done["pid"]) != os.getsid(0)
        parts = ["disk1.img", "disk1.part1.img", "disk1.part2.img"]
        assert done["files"] == ["description.ovf", *parts, "settings.vbox"]
        assert [lock["vm"] for lock in sessions(operator)] == [f"{UUID}/{NEW}"]
        assert f"mount web/{NEW}" in operator.lock("list").stdout

        assert (place / "disk1.img").read_bytes() == disk
        assert (place / "settings.vbox").read_bytes() == b"<settings/>"
        for number, at in ((1, guest_disks.FIRST), (2, 26 * guest_disks.MIB)):
            part = (place / f"disk1.part{number}.img").read_bytes()
            assert part == disk[at : at + 24 * guest_disks.MIB]
        with pytest.raises(OSError, match=r"Read-only|denied|not permitted"):
            (place / "disk1.img").open("r+b")

        refused = operator.admin("archive", "web")
        assert "is being read by session" in refused.stderr
        again = operator.admin("mount", "web", str(place))
        assert (again.exit_code, "has a copy already" in again.stderr) == (ExitCode.USAGE, True)
        with (place / "disk1.part2.img").open("rb") as opened:
            assert opened.read(1) is not None
            busy = operator.admin("umount", str(place))
            assert (busy.exit_code, "something is open" in busy.stderr) == (ExitCode.LOCKED, True)
            assert f"`fuser -v {place}/*`" in " ".join(busy.stderr.split())
            assert (place / "disk1.img").stat().st_size == len(disk)  # nothing is gone
            assert operator.admin("umount", str(place), "--force").exit_code == 0
        assert not list(place.iterdir())
        wait_for(lambda: gone(done["pid"]) and not sessions(operator))
        assert operator.admin("umount", str(place)).exit_code == ExitCode.USAGE

    @pytest.mark.parametrize("by", ["umount", "mount"])
    def test_a_killed_server_ends_what_it_started_and_the_rest_is_cleaned_up(
        self,
        by: str,
        site: tuple[Operator, bytes, Path],
    ) -> None:
        operator, _, place = site
        pid = mount(operator, place, "--copy", OLD)["pid"]
        (place / "of the user").touch()
        started = children(pid)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: all(map(gone, started)))
        assert started
        assert not places_of(place)
        assert (place / "disk1.img").stat().st_size == 0
        assert readers.readers(operator.contents, UUID).keys() == {OLD}
        if by == "umount":
            assert operator.admin("umount", str(place)).exit_code == 0
            assert not readers.readers(operator.contents, UUID)
        else:
            refused = operator.admin("mount", "web", str(place))
            assert (refused.exit_code, "is not empty" in refused.stderr) == (2, True)
        assert [each.name for each in place.iterdir()] == ["of the user"]
        (place / "of the user").unlink()
        assert mount(operator, place)["stamp"] == NEW
        assert operator.admin("umount", str(place)).exit_code == 0

    @pytest.mark.parametrize("how", ["a child", "SIGTERM"])
    def test_nothing_stays_when_it_is_told_to_end_or_a_part_of_it_is_killed(
        self,
        how: str,
        site: tuple[Operator, bytes, Path],
    ) -> None:
        operator, _, place = site
        pid = mount(operator, place)["pid"]
        if how == "a child":
            os.kill(children(pid)[1], signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: gone(pid))
        assert not list(place.iterdir())
        assert not places_of(place)
        assert not sessions(operator)

    def test_a_server_that_was_stopped_ends_by_force(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "x.ova").write_bytes(ova(vmdk(GRAINS, 640)))
        pid = started(tmp_path / "x.ova", tmp_path / "place").pid
        monkeypatch.setattr(noted_places, "END_SECONDS", 0.3)
        os.kill(pid, signal.SIGSTOP)
        try:
            found = places.at(tmp_path / "place")
            assert found is not None
            with pytest.raises(LockedError, match="does not end"):
                places.unmount(found, SubprocessRunner())
            left = places.at(tmp_path / "place")
            assert left is not None
            assert not left.files
            places.unmount(left, SubprocessRunner(), lazily=True)
            assert not list((tmp_path / "place").iterdir())
            wait_for(lambda: gone(pid))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @pytest.mark.parametrize("who", ["the server", "what it started"])
    def test_one_that_was_stopped_loses_no_file_before_that_is_said(
        self, site: tuple[Operator, bytes, Path], who: str
    ) -> None:
        operator, disk, place = site
        pid = mount(operator, place)["pid"]
        stopped = pid if who == "the server" else children(pid)[0]
        os.kill(stopped, signal.SIGSTOP)
        wait_for(lambda: is_stopped(stopped))
        try:
            for more in ((), ("--dry-run",)):
                refused = operator.admin("umount", str(place), *more)
                assert (refused.exit_code, refused.stdout) == (ExitCode.LOCKED, "")
                said = " ".join(refused.stderr.split())
                assert f"was not unmounted: its server does not answer (process {pid})" in said
                assert f"`kill -CONT {stopped}` lets it go on" in said
                assert len(places_of(place)[0].files) == 3
            os.kill(stopped, signal.SIGCONT)
            assert (place / "disk1.img").read_bytes() == disk
            os.kill(stopped, signal.SIGSTOP)
            wait_for(lambda: is_stopped(stopped))
            assert operator.admin("umount", str(place), "--force").exit_code == 0
            assert not list(place.iterdir())
            wait_for(lambda: gone(pid))
        finally:
            for each in (stopped, pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)

    def test_it_ends_when_nobody_uses_it(
        self,
        site: tuple[Operator, bytes, Path],
    ) -> None:
        operator, _, place = site
        pid = mount(operator, place, "--idle", "0.02")["pid"]
        with (place / "disk1.part1.img").open("rb") as opened:
            assert opened.read(1) is not None
            looks = Path(f"/proc/{pid}/schedstat")
            before = int(looks.read_text("utf-8").split()[2])
            wait_for(lambda: int(looks.read_text("utf-8").split()[2]) > before + 60)
            assert places.at(place)
        wait_for(lambda: gone(pid))
        assert not list(place.iterdir())
        assert not sessions(operator)

    def test_volumes_of_lvm_are_named_as_missing_and_other_disks_are_there(
        self, site_with_database: Operator, tmp_path: Path
    ) -> None:
        text = b'vg { id = "g" seqno = 1 extent_size = 8 physical_volumes { p { id = "%s" ' % (
            b"a" * 32
        )
        text += b'pe_start = 2048 pe_count = 1 } } logical_volumes { lv { id = "l" '
        text += b'status = ["READ", "VISIBLE"] segment_count = 1 segment1 { start_extent = 0 '
        text += b'extent_count = 1 type = "striped" stripe_count = 1 stripes = ["p", 0] } } } }'
        (tmp_path / "pv").write_bytes(physical_volume(text, "a" * 32, 2 << 20))
        data = guest_disks.as_copy(tmp_path / "pv")
        members = [("x.ovf", b"<x/>"), ("a.vmdk", b"none".ljust(2048, b"\0"))]
        put_copy(
            site_with_database.nas / "web", NEW, tar_file([*members, ("b.vmdk", disk_of(data))])
        )
        site_with_database.add_vms("web")
        (tmp_path / "place").mkdir()
        done = mount(site_with_database, tmp_path / "place")
        assert "disk2.img" in done["files"]
        assert any("disk 1: " in each for each in done["warnings"])
        assert any(each.startswith("vg-lv.img: ") for each in done["missing"])
        assert (tmp_path / "place" / "disk2.img").read_bytes() == (tmp_path / "pv").read_bytes()


def disk_of(copy: bytes) -> bytes:
    """The one disk of an `.ova`."""
    start = copy.index(b"KDMV")
    return copy[start : start + int(copy[start - BLOCK + 124 : start - BLOCK + 135], 8)]


@pytest.mark.slow
@pytest.mark.usefixtures("others")
class TestUntrusted:
    """What is damaged, away, or made to have qemu read something else."""

    def test_a_damaged_block_is_an_error_and_no_zeros(self, tmp_path: Path) -> None:
        data = bytearray(ova(vmdk(GRAINS, 640)))
        guest_disks.lose_block(data, 2)
        (tmp_path / "x.ova").write_bytes(data)
        done = started(tmp_path / "x.ova", tmp_path / "place")
        with (tmp_path / "place" / "disk1.img").open("rb", buffering=0) as disk:
            assert disk.read(GRAIN) == GRAINS[0]
            disk.seek(2 * GRAIN + 512)
            with pytest.raises(OSError, match=r"Invalid argument|Input/output"):
                disk.read(512)
        # qemu-nbd lets go of it then, and it is shown again
        wait_for(lambda: read(tmp_path / "place" / "disk1.img", 600) == GRAINS[600])
        unmounted(tmp_path / "place", done.pid)

    def test_reads_fail_while_the_nas_is_away_and_come_back_with_it(self, tmp_path: Path) -> None:
        (tmp_path / "x.ova").write_bytes(ova(vmdk(GRAINS, 640)))
        flag, nas = tmp_path / "away", tmp_path / "nas"
        nas.mkdir()
        words = [str(tmp_path / "x.ova"), str(nas), str(flag), "0", str(1 << 40)]
        with subprocess.Popen(
            [sys.executable, "-m", "tests.support.faulty_file", *words]
        ) as server:
            try:
                wait_for((nas / "x.ova").exists)
                done = started(nas / "x.ova", tmp_path / "place")
                disk = tmp_path / "place" / "disk1.img"
                assert read(disk, 0) == GRAINS[0]
                flag.touch()
                for number in (2, 600, 2):  # of a table that qemu has read, and of another
                    assert read(disk, number) is None
                flag.unlink()
                wait_for(lambda: read(disk, 600) == GRAINS[600])
                assert read(disk, 2) == GRAINS[2]
                unmounted(tmp_path / "place", done.pid)
            finally:
                subprocess.run(["fusermount3", "-u", "-z", str(nas)], check=False)
                server.wait(60)

    @staticmethod
    def entry(disk: bytes, grain: int) -> int:
        """Where the table of a disk has this grain."""
        directory = struct.unpack_from("<Q", disk, len(disk) - 1024 + 56)[0] * 512
        (table,) = struct.unpack_from("<I", disk, directory + grain // 512 * 4)
        return int(table) * 512 + grain % 512 * 4

    @pytest.mark.parametrize(
        "change",
        [
            "a grain outside of the file",
            "a grain in the header",
            "a table outside of the file",
            "not compressed",
            "not compressed, says the footer",
            "another version",
        ],
    )
    def test_what_qemu_would_read_as_something_else_is_refused(
        self, change: str, tmp_path: Path
    ) -> None:
        disk = bytearray(vmdk(GRAINS, 640))
        footer, entry = len(disk) - 1024, self.entry(bytes(disk), 2)
        if "a grain" in change:
            number = 1 if "header" in change else len(disk) // 512 + 128
            struct.pack_into("<I", disk, entry, number)
        elif "table" in change:
            directory = struct.unpack_from("<Q", disk, footer + 56)[0] * 512
            struct.pack_into("<I", disk, directory + 4, len(disk) // 512 + 128)
        elif "version" in change:
            disk[4] = disk[footer + 4] = 9
        else:
            places = (footer,) if "footer" in change else (0, footer)
            for place in places:
                disk[place + 77] = 0
        (tmp_path / "x.ova").write_bytes(ova(bytes(disk)))
        with pytest.raises(
            CopyError, match="can show no disk of this copy, which is dam"
        ) as raised:
            started(tmp_path / "x.ova", tmp_path / "place", key="web@alpha")
        assert "vmbackup-admin verify web@alpha" in raised.value.hint
        assert not list((tmp_path / "place").iterdir())
        assert not places_of(tmp_path)

    @pytest.mark.parametrize("kind", ["text", "header", "footer"])
    def test_no_file_is_read_that_a_descriptor_names(self, kind: str, tmp_path: Path) -> None:
        """qemu alone would: it opens whatever stands there."""
        require("qemu-img", "qemu-utils")
        secret = tmp_path / "secret"
        secret.write_bytes(SECRET)
        text = DESCRIPTOR + b'createType="monolithicFlat"\nRW 128 FLAT "%s" 0\n' % bytes(secret)
        disk = bytearray(vmdk(GRAINS, 640))
        disk[512 : 512 + len(text)] = text
        if kind == "text":
            disk[: 20 * 512] = text.ljust(20 * 512, b"\n")
        else:
            at = 0 if kind == "header" else len(disk) - 1024
            struct.pack_into("<Q", disk, at + 12, 0)  # no capacity: see the descriptor
        (tmp_path / "x.vmdk").write_bytes(disk)
        if kind != "footer":
            words = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", tmp_path / "x.vmdk"]
            guest_disks.run(*words, tmp_path / "read")
            assert (tmp_path / "read").read_bytes() == SECRET
        (tmp_path / "x.ova").write_bytes(ova(bytes(disk)))
        with pytest.raises(CopyError, match="can show no disk"):
            started(tmp_path / "x.ova", tmp_path / "place")
        assert not list((tmp_path / "place").iterdir())

    def test_a_parent_that_a_disk_names_is_not_read(self, tmp_path: Path) -> None:
        require("qemu-img", "qemu-utils")
        (tmp_path / "parent.vmdk").write_bytes(vmdk({1: SECRET}, 640))
        disk = bytearray(vmdk(GRAINS, 640))
        text = DESCRIPTOR.replace(b"ffffffff", b"00000001")
        text += b'parentFileNameHint="%s"\n' % bytes(tmp_path / "parent.vmdk")
        disk[512 : 512 + len(text)] = text
        (tmp_path / "x.vmdk").write_bytes(disk)
        words = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", tmp_path / "x.vmdk"]
        guest_disks.run(*words, tmp_path / "read")
        assert (tmp_path / "read").read_bytes()[GRAIN : 2 * GRAIN] == SECRET
        (tmp_path / "x.ova").write_bytes(ova(bytes(disk)))
        done = started(tmp_path / "x.ova", tmp_path / "place")
        shown = (tmp_path / "place" / "disk1.img").read_bytes()
        assert shown == b"".join(GRAINS.get(n, bytes(GRAIN)) for n in range(640))
        unmounted(tmp_path / "place", done.pid)

    def test_names_of_files_and_places_may_hold_anything(self, tmp_path: Path) -> None:
        folder = tmp_path / 'a, "b" [\u00fc \\ %s\n]'
        folder.mkdir()
        copy = folder / os.fsdecode(b'\xff":{}.ova')
        copy.write_bytes(ova(vmdk(GRAINS, 640), disk_name="../../x.vmdk"))
        done = started(copy, folder / "place", what=f"a,b {os.fsdecode(bytes([10]))}:{NEW}")
        assert (folder / "place" / "disk1.img").read_bytes()[:GRAIN] == GRAINS[0]
        unmounted(folder / "place", done.pid)

    def test_of_too_many_partitions_the_disk_is_there_and_it_is_said(self, tmp_path: Path) -> None:
        image = tmp_path / "image"
        image.write_bytes(bytes(64 << 10))
        disk = guest_disks.disk(tmp_path / "disk", [image] * 40)
        (tmp_path / "x.ova").write_bytes(guest_disks.as_copy(disk))
        done = started(tmp_path / "x.ova", tmp_path / "place")
        shown = [each for each in (tmp_path / "place").iterdir() if each.suffix == ".img"]
        assert len(shown) == 32
        assert sum("no more than 32" in each for each in done.missing) == 41 - 32
        unmounted(tmp_path / "place", done.pid)


def places_of(folder: Path) -> list[places.MountedCopy]:
    return [each for each in places.mounted() if Path(each.place).is_relative_to(folder)]


@pytest.mark.parametrize(
    ("of", "compared", "said"),
    [
        ({"good": False, "problem": "it has 7 bytes of 9"}, False, "it has 7 bytes of 9; `vmback"),
        ({"good": False, "problem": "it has 7 bytes of 9"}, True, "does not count: it has 7 bytes"),
        ({"good": False, "refused": True, "read_in_full": True}, False, ""),
        ({"read_in_full": False}, False, "was not read in full yet; `vmbackup-admin verify web` "),
        ({"read_in_full": False}, True, ""),
        ({}, False, ""),
    ],
)
def test_that_a_copy_was_not_read_in_full_is_said_of_no_other(
    of: dict[str, object], compared: bool, said: str
) -> None:
    """It stood for a copy that was read in full, and is shorter by now."""
    facts = {"stamp": NEW, "good": True, "refused": False, "read_in_full": True, "problem": ""}
    copy: Any = SimpleNamespace(**{**facts, **of})
    record: Any = SimpleNamespace(key="web")
    found = list(choice.unread(record, copy, compared=compared))
    assert bool(found) == bool(said)
    assert all(said in each and each.endswith("tells whether it is damaged") for each in found)


class TestChosen:
    """Which way is taken, by what there is."""

    @staticmethod
    def lacking(error: Exception) -> Callable[[], None]:
        def refuse() -> None:
            raise error

        return refuse

    @pytest.fixture(autouse=True)
    def device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(places, "require_device", lambda: None)

    def test_our_own_comes_first(self) -> None:
        assert choose(lambda: None, which=lambda _: "/usr/bin/it") is MountWay.OWN

    def test_the_other_where_mfusepy_or_libfuse_is_not_there_and_its_programs_are(self) -> None:
        own = self.lacking(ConfigurationError("no libfuse", hint="install it"))
        assert choose(own, which=lambda _: "/usr/bin/it") is MountWay.OTHERS

    @pytest.mark.parametrize("gone", PROGRAMS)
    def test_with_neither_one_sentence_says_how_to_get_either(self, gone: str) -> None:
        own = self.lacking(ConfigurationError("no mfusepy", hint="pip install mfusepy"))
        with pytest.raises(ConfigurationError, match="no mfusepy") as raised:
            choose(own, which=lambda name: None if name == gone else "/usr/bin/it")
        for word in ("pip install mfusepy", "nbdfuse", "qemu-nbd", "apt install libnbd-bin"):
            assert word in raised.value.hint

    def test_without_a_device_no_program_helps(self) -> None:
        own = self.lacking(places.NoDeviceError("no /dev/fuse", hint="modprobe fuse"))
        with pytest.raises(places.NoDeviceError):
            choose(own, which=lambda _: "/usr/bin/it")

    def test_a_library_that_cannot_be_loaded_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: True)
        monkeypatch.setattr(places, "find_library", lambda _name: "libnone-of-this-name.so.9")
        with pytest.raises(ConfigurationError, match="libfuse"):
            places.require_fuse()


class Refusing(SubprocessRunner):
    """Runs nothing."""

    def run(self, *_: object, **__: object) -> NoReturn:
        """Raises AssertionError."""
        raise AssertionError("something is unmounted")


class TestNoted:
    """What is left in a directory, and what of it is ours."""

    @pytest.fixture
    def left(self, tmp_path: Path) -> Iterator[Path]:
        place = tmp_path / "place"
        place.mkdir()
        with contextlib.ExitStack() as stack:
            noted = stack.enter_context(noted_places.NotedPlace(place, f"web:{NEW}"))
            noted.add("disk1.img")
            noted.add("settings.vbox", b"<settings/>")
            assert noted_places.served(place)
            with pytest.raises(Exception, match="has a copy already"):
                noted_places.NotedPlace(place, "other")
            yield place
            shutil.rmtree(place, ignore_errors=True)

    def test_what_the_user_has_put_there_stays(self, left: Path) -> None:
        copy = left.with_name("copy")
        shutil.copytree(left, copy, copy_function=shutil.copy2)
        note = noted_places.read(copy)
        assert note is not None
        assert (note.what, set(note.files)) == (f"web:{NEW}", {"disk1.img", "settings.vbox"})
        assert noted_places.clear(copy)
        assert {each.name for each in copy.iterdir()} == {"disk1.img", "settings.vbox"}

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"[]",
            b"[" * 100000,
            b'{"what": "x", "files": {"../victim": [1, 2, 3, 4]}}',
            b'{"what": "x", "files": {"a": "b"}}',
            b'{"what": "x", "files": ["a"]}',
            b'{"what": "x", "files": {"\\ud800": [1, 2, 3, 4]}}',
            b'{"what": "x", "files": {"a": [1e999]}}',
        ],
    )
    def test_a_note_may_hold_anything(self, text: bytes, tmp_path: Path) -> None:
        (tmp_path / "victim").touch()
        place = tmp_path / "place"
        place.mkdir()
        (place / noted_places.NOTE).write_bytes(text)
        note = noted_places.read(place)
        assert note is None or not note.files
        assert not noted_places.served(place)
        assert noted_places.clear(place)
        assert (tmp_path / "victim").exists()

    def test_nothing_of_another_users_directory_is_removed_by_root(
        self, left: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who may write to a directory on the way chooses what lies at the path."""
        note, names = (
            (left / noted_places.NOTE).read_bytes(),
            {each.name for each in left.iterdir()},
        )
        foreign = left.with_name("foreign")
        foreign.mkdir()
        for name in names:
            os.rename(left / name, foreign / name)
        foreign.rename(foreign.with_name("away"))
        foreign.symlink_to("away")
        assert noted_places.clear(foreign)
        assert {each.name for each in foreign.iterdir()} == names
        foreign.unlink()
        foreign.with_name("away").rename(foreign)
        (foreign / noted_places.NOTE).unlink()
        (foreign / noted_places.NOTE).write_bytes(note)
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
        assert noted_places.read(foreign) is None
        assert noted_places.clear(foreign)
        assert {each.name for each in foreign.iterdir()} == names

    @needs_root
    @pytest.mark.parametrize("theirs", ["directory", "note", "file"])
    def test_root_removes_only_what_its_own_mount_left(self, theirs: str, left: Path) -> None:
        there = left.with_name("there")
        there.mkdir()
        for each in list(left.iterdir()):
            each.rename(there / each.name)
        names = {each.name for each in there.iterdir()}
        # the lock of the server that lives goes with the note
        note = (there / noted_places.NOTE).read_bytes()
        (there / noted_places.NOTE).unlink()
        (there / noted_places.NOTE).write_bytes(note)
        changed = {
            "directory": there,
            "note": there / noted_places.NOTE,
            "file": there / "settings.vbox",
        }
        os.chown(changed[theirs], NOBODY, NOBODY)
        assert noted_places.clear(there)
        kept = {each.name for each in there.iterdir()}
        assert kept == ({"settings.vbox"} if theirs == "file" else names)
        if theirs != "file":
            found = places.at(there)
            assert found is not None
            with pytest.raises(LockedError, match="belongs to the user nobody"):
                places.unmount(found, SubprocessRunner(), lazily=True)

    def test_a_file_that_has_another_name_too_stays(self, left: Path) -> None:
        there = left.with_name("there")
        shutil.move(left, there)
        note = (there / noted_places.NOTE).read_bytes()
        (there / noted_places.NOTE).unlink()
        (there / noted_places.NOTE).write_bytes(note)
        os.link(there / "settings.vbox", there.with_name("other"))
        assert noted_places.clear(there)
        assert {each.name for each in there.iterdir()} == {"settings.vbox"}

    @pytest.mark.parametrize("owner", [f"user_id={os.geteuid() + 1}", "rw"])
    def test_mounts_of_others_are_not_cleaned_up(
        self, owner: str, left: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table = left.with_name("mounts")
        table.write_text(
            f"x {left}/disk1.img fuse.vmbackup-file ro,{owner} 0 0\n"
            f"y {left} fuse.vmbackup ro,{owner} 0 0\n"
        )
        monkeypatch.setattr(places, "mounted", partial(places.mounted, table))
        monkeypatch.setattr(places, "life_of", lambda _: places.Life.GONE)
        monkeypatch.setattr(noted_places, "served", lambda _: False)
        assert len(places.mounted()) == 2
        assert places.clean_up(Refusing()) == []

    @pytest.mark.parametrize("more", [(), ("--force",)])
    def test_what_a_server_held_that_was_killed_by_force_is_free(
        self,
        more: tuple[str, ...],
        left: Path,
        site_with_database: Operator,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        freed = list[object]()
        monkeypatch.setattr(dead_sessions, "free_readers", freed.append)
        monkeypatch.setattr(places, "unmount", lambda *_, **__: None)
        assert site_with_database.admin("umount", str(left), *more).exit_code == 0
        assert len(freed) == len(more)

    @pytest.mark.parametrize("mode", [0o777, 0o1777])
    def test_no_files_are_made_where_others_may_write(self, mode: int, tmp_path: Path) -> None:
        tmp_path.chmod(mode)
        with pytest.raises(UsageError, match="others may write"):
            noted_places.NotedPlace(tmp_path, "x")
        assert not list(tmp_path.iterdir())

    @needs_root
    def test_no_files_are_made_in_the_directory_of_another(self, tmp_path: Path) -> None:
        os.chown(tmp_path, NOBODY, NOBODY)
        with pytest.raises(UsageError, match="not of this user"):
            noted_places.NotedPlace(tmp_path, "x")
        assert not list(tmp_path.iterdir())

    def test_a_note_that_another_removes_before_it_is_locked_is_made_anew(
        self, tmp_path: Path
    ) -> None:
        notes = list[str]()

        def lock(note: BinaryIO) -> None:
            if not notes:
                assert noted_places.clear(tmp_path)  # a second `mount` at this moment
            notes.append(note.name)
            wait_for_lock(note)

        with noted_places.NotedPlace(tmp_path, "x", locking=lock):
            assert len(notes) == 2
            assert noted_places.served(tmp_path)
            assert not noted_places.clear(tmp_path, seconds=0)

    def test_a_note_that_is_a_link_or_a_pipe_is_none(self, left: Path, tmp_path: Path) -> None:
        for name, make in (
            ("link", lambda path: path.symlink_to(left / noted_places.NOTE)),
            ("pipe", os.mkfifo),
        ):
            (tmp_path / name).mkdir()
            make(tmp_path / name / noted_places.NOTE)
            assert noted_places.read(tmp_path / name) is None
            assert places.at(tmp_path / name) is None

    def test_the_table_of_mounts_has_one_of_several_files(self, tmp_path: Path) -> None:
        table = tmp_path / "mounts"
        kind = f"fuse.vmbackup-file ro,nosuid,user_id={os.geteuid()},group_id=0 0 0"
        table.write_text(
            f"web:{NEW} /a\\040b/disk1.img {kind}\nweb:{NEW} /a\\040b/disk2.img {kind}\n"
            f"x:{OLD} /c/disk1.img {kind}\n",
            encoding="utf-8",
        )
        first, second = places.mounted(table)
        assert (first.place, first.what) == ("/a b", f"web:{NEW}")
        assert first.files == ("/a b/disk1.img", "/a b/disk2.img")
        assert (second.place, second.alive) == ("/c", False)
        assert not places.mounted(table, kind="another")
