"""Files out of a copy: real file systems, compared by digest; hostile names, modes and disks."""

import json
import os
import random
import shutil
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.guest.frames import Frames
from coordinator.guest.reader_process import GuestReader
from shared.host.errors import CopyError, ExitCode
from tests.ordinary.mounts import possible
from tests.support import guest_disks, lvm_disks
from tests.support.copies import put_copy
from tests.support.proving import PROVE
from tests.unit.coordinator.conftest import Operator
from tests.unit.coordinator.test_reading import tree

pytestmark = pytest.mark.slow

OLD, NEW = "20261121T000000Z-9", "20261122T203800Z-17"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[bytes, dict[str, str]]]:
    """A copy with ext4, FAT, NTFS and LUKS, each but the last with the same files; their digests.

    Where this process may not mount there is no NTFS.
    """
    folder = tmp_path_factory.mktemp("guest")
    files = folder / "files"
    want = guest_disks.tree(files)
    parts = [guest_disks.ext(folder / "e", files), guest_disks.fat(folder / "f", files)]
    if possible() or os.environ.get("CI"):
        parts.append(guest_disks.ntfs(folder / "n", files, folder / "mounted"))
    locked = folder / "l"
    locked.write_bytes(b"LUKS\xba\xbe\x00\x02".ljust(guest_disks.MIB, b"\1"))
    yield guest_disks.as_copy(guest_disks.disk(folder / "disk", [*parts, locked])), want
    shutil.rmtree(folder)


@pytest.fixture
def copied(
    site_with_database: Operator, sources: tuple[bytes, dict[str, str]]
) -> tuple[Operator, dict[str, str]]:
    """A VM with that copy, and the digests of its files."""
    data, want = sources
    site_with_database.add_vms("web")
    put_copy(site_with_database.nas / "web", NEW, data)
    return site_with_database, want


def systems(operator: Operator) -> list[dict[str, Any]]:
    return list(operator.json("files", "web")["systems"])


def fetched(operator: Operator, *arguments: str, code: int = 0) -> dict[str, Any]:
    result = operator.admin("files", "web", *arguments, "--json")
    assert result.exit_code == code, result.output
    return dict(json.loads(result.stdout))


def single(operator: Operator, image: Path) -> None:
    """The VM's copy has this one disk."""
    operator.add_vms("web")
    put_copy(operator.nas / "web", NEW, guest_disks.as_copy(image))


class TestWholeFileSystems:
    def test_every_file_of_every_kind_is_what_it_was(
        self, copied: tuple[Operator, dict[str, str]], tmp_path: Path
    ) -> None:
        operator, want = copied
        before = tree(operator.nas)
        for system in [row for row in systems(operator) if row["readable"]]:
            place = tmp_path / system["place"]
            place.mkdir()
            document = fetched(operator, "/", "--disk", system["place"], "--get", str(place))
            assert document["files"] == len(want), system
            assert document["problems"] == []
            assert guest_disks.digests(place / f"disk{system['place']}") == want, system
        assert tree(operator.nas) == before

    @pytest.mark.parametrize("disk", ["7", "1.9", "x"])
    def test_a_disk_that_is_not_there_is_said_to_be_none(
        self, copied: tuple[Operator, dict[str, str]], disk: str
    ) -> None:
        refused = copied[0].admin("files", "web", "--disk", disk)
        assert (refused.exit_code, f"no disk or partition {disk}" in refused.stderr) == (2, True)

    def test_what_lies_in_each_partition_is_said(
        self, copied: tuple[Operator, dict[str, str]]
    ) -> None:
        operator, _ = copied
        found = {row["type"]: row for row in systems(operator)}
        assert {"ext4", "FAT", "LUKS"} <= set(found)
        assert found["LUKS"]["encrypted"]
        assert "with its key" in found["LUKS"]["advice"]
        assert "encrypted" in operator.admin("files", "web").stdout

    def test_a_path_that_several_have_must_say_which(
        self, copied: tuple[Operator, dict[str, str]]
    ) -> None:
        operator, _ = copied
        refused = operator.admin("files", "web", "/hello.txt")
        assert refused.exit_code == ExitCode.USAGE
        assert "--disk 1.1" in refused.stderr
        assert "hello.txt" in operator.admin("files", "web", "hello.txt", "--disk", "1.2").stdout
        missing = operator.admin("files", "web", "/no", "--disk", "1.1")
        assert missing.exit_code == ExitCode.USAGE
        assert "partition 1 of disk 1: there is no no" in missing.stderr
        assert "`vmbackup-admin files web` lists its disks" in missing.stderr
        assert operator.admin("files", "web", "/a/../b").exit_code == ExitCode.USAGE
        assert operator.admin("files", "web", "/", "--disk", "7").exit_code == ExitCode.USAGE

    def test_files_without_end_leave_the_destination_room_for_those_of_others(
        self, copied: tuple[Operator, dict[str, str]], tmp_path: Path
    ) -> None:
        if not (possible() or os.environ.get("CI")):
            pytest.skip("a small file system needs root")
        operator, _ = copied
        place = tmp_path / "small"
        place.mkdir()
        guest_disks.run("mount", "-t", "tmpfs", "-o", "nr_inodes=100", "tmpfs", place)
        try:
            result = operator.admin("files", "web", "/many", "--disk", "1.1", "--get", str(place))
            left = os.statvfs(place).f_favail
        finally:
            guest_disks.run("umount", place)
        assert result.exit_code == ExitCode.FAILURE, result.output
        assert "room for only 4 more files" in result.stderr
        assert left == 4

    def test_a_path_is_found_in_any_case_where_the_guest_finds_it(
        self, copied: tuple[Operator, dict[str, str]]
    ) -> None:
        operator, _ = copied
        assert operator.admin("files", "web", "/HELLO.txt", "--disk", "1.2").exit_code == 0
        assert operator.admin("files", "web", "/HELLO.txt", "--disk", "1.1").exit_code == 2

    def test_nothing_is_overwritten_and_dry_run_writes_nothing(
        self, copied: tuple[Operator, dict[str, str]], tmp_path: Path
    ) -> None:
        operator, _ = copied
        place = tmp_path / "here"
        place.mkdir()
        get = ("files", "web", "/many", "--disk", "1.1", "--get", str(place))
        plan = operator.json(*get, "--dry-run")
        assert (plan["files"], plan["dry_run"]) == (150, True)
        assert list(place.iterdir()) == []
        assert operator.admin(*get).exit_code == 0
        (place / "many" / "f000.txt").write_bytes(b"mine")
        again = operator.admin(*get)
        assert again.exit_code == ExitCode.USAGE
        assert "nothing is overwritten" in again.stderr
        assert (place / "many" / "f000.txt").read_bytes() == b"mine"
        nowhere = operator.admin(*get[:-1], str(tmp_path / "not there"))
        assert nowhere.exit_code == ExitCode.USAGE
        assert operator.admin("files", "web", "--get", str(place)).exit_code == ExitCode.USAGE

    def test_without_database_and_without_record(
        self, copied: tuple[Operator, dict[str, str]]
    ) -> None:
        operator, _ = copied
        operator.json("status")
        assert operator.admin("forget", "web").exit_code == 0
        shutil.rmtree(operator.vmstate)
        document = operator.json("files", "web", "/many", "--disk", "1.1")
        assert document["database"] == "none"
        assert len(document["entries"]) == 150

    def test_which_copy(self, copied: tuple[Operator, dict[str, str]]) -> None:
        operator, _ = copied
        assert operator.admin("files", "web", "--copy", "previous").exit_code == ExitCode.FAILURE
        assert operator.admin("files", "nobody").exit_code == ExitCode.USAGE
        put_copy(operator.nas / "web", OLD, b"no ova at all")
        broken = operator.admin("files", "web", "--copy", OLD)
        assert broken.exit_code == ExitCode.FAILURE, broken.output
        assert "Traceback" not in broken.output

    def test_a_missing_extra_is_one_sentence(
        self, copied: tuple[Operator, dict[str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        operator, _ = copied
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
        refused = operator.admin("files", "web")
        assert refused.exit_code == ExitCode.USAGE
        assert "pip install pytsk3" in refused.stderr


@pytest.mark.parametrize("kind", ["LVM", "BitLocker", "swap", "unknown", "FAT", "ext2"])
def test_what_lies_in_a_partition_is_recognised(kind: str, tmp_path: Path) -> None:
    from coordinator.guest.signatures import recognise

    image, files = tmp_path / "image", tmp_path / "files"
    files.mkdir()
    if kind == "LVM":
        if not possible():
            (pytest.fail if os.environ.get("CI") else pytest.skip)("a loop device needs root")
        image.touch()
        os.truncate(image, 16 << 20)
        with lvm_disks.lvm(tmp_path, image) as lvm:
            lvm("pvcreate", "-y", "@1")
    elif kind == "ext2":
        guest_disks.ext(image, files, "ext2")
    elif kind == "FAT":
        (files / "x").touch()
        guest_disks.fat(image, files)
    else:
        magic = {"BitLocker": (3, b"-FVE-FS-"), "swap": (4086, b"SWAPSPACE2"), "unknown": (0, b"")}
        place, words = magic[kind]
        image.write_bytes((bytes(place) + words).ljust(1 << 17, b"\0"))
    data = image.read_bytes()
    assert recognise(lambda at, length: data[at : at + length]).kind == kind


class TestDamagedCopies:
    def test_what_can_be_read_is_given_and_the_rest_is_an_error(
        self, site_with_database: Operator, tmp_path: Path
    ) -> None:
        files = tmp_path / "files"
        want = guest_disks.tree(files)
        image = guest_disks.ext(tmp_path / "e", files)
        raw = image.read_bytes()
        data = bytearray(guest_disks.as_copy(image))
        big = raw.index((files / "big.bin").read_bytes()[2_000_000:2_001_000])
        guest_disks.lose_block(data, big // guest_disks.GRAIN)
        site_with_database.add_vms("web")
        put_copy(site_with_database.nas / "web", NEW, bytes(data))
        place = tmp_path / "place"
        place.mkdir()
        document = fetched(site_with_database, "/", "--get", str(place), code=3)
        assert [row["path"] for row in document["problems"]] == ["big.bin"]
        found = guest_disks.digests(place / "disk1")
        del want["big.bin"]
        left = found.pop("big.bin.incomplete")
        assert left
        assert found == want
        rest = (place / "disk1" / "big.bin.incomplete").read_bytes()
        assert (files / "big.bin").read_bytes().startswith(rest)
        assert len(rest) >= guest_disks.MIB


class TestHostileGuests:
    def test_names_modes_links_and_devices(
        self, site_with_database: Operator, tmp_path: Path
    ) -> None:
        files = tmp_path / "files"
        files.mkdir()
        names = ["new\nline", "\x1b[31mred", "--help", "\u202eesrever", "x" * 255, "AAAAoutAA"]
        for name in [*names, "BBBB", "twin", "TWIN"]:
            (files / name).write_text(name)
        (files / os.fsdecode(b"latin\xe9")).write_text("latin")
        (files / "link").symlink_to("/etc/passwd")
        (files / "setuid").write_text("x")
        (files / "directory").mkdir()
        (files / "directory" / "inside").write_text("x")
        image = guest_disks.ext(
            tmp_path / "e", files, "ext4", 24 * guest_disks.MIB, "-O", "^metadata_csum"
        )
        for command in (
            "mknod device c 1 3",
            "mknod pipe p",
            "set_inode_field setuid mode 0104777",
            "set_inode_field directory mode 042777",
            "ln / directory/loop",
        ):
            guest_disks.run("debugfs", "-w", "-R", command, image)
        raw = image.read_bytes()
        assert raw.count(b"AAAAoutAA") == raw.count(b"BBBB") == 2
        raw = raw.replace(b"\x09\x01AAAAoutAA", b"\x09\x01../../out")
        image.write_bytes(raw.replace(b"\x04\x01BBBB", b"\x02\x01..BB"))
        single(site_with_database, image)
        place = tmp_path / "deep" / "place"
        place.mkdir(parents=True)
        (tmp_path / "deep" / "out").write_text("mine")
        document = fetched(site_with_database, "/", "--get", str(place), code=3)

        assert {row["text"] for row in document["problems"]} == {
            "directories lead in a circle there"
        }
        assert {row["path"] for row in document["left_out"]} == {"link", "device", "pipe"}
        top = place / "disk1"
        everything = sorted(str(path.relative_to(tmp_path / "deep")) for path in top.rglob("*"))
        assert all(name.isprintable() and name.startswith("place/disk1/") for name in everything)
        assert (tmp_path / "deep" / "out").read_text() == "mine"
        assert [path.name for path in (tmp_path / "deep").iterdir()] in (
            ["place", "out"],
            ["out", "place"],
        )
        assert (top / "..\\x2f..\\x2fout").read_text() == "AAAAoutAA"
        assert (top / "new\\nline").read_text() == "new\nline"
        assert (top / "latin\\udce9").read_text() == "latin"
        assert "x" * 255 in [path.read_text() for path in top.iterdir() if path.is_file()]
        for path in [top, *top.rglob("*")]:
            mode = path.lstat().st_mode
            assert stat.S_ISREG(mode) or stat.S_ISDIR(mode), path
            assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH), path
        shown = site_with_database.admin("files", "web", "/").stdout
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "link -> /etc/passwd" in shown
        refused = site_with_database.admin("files", "web", "/link", "--get", str(place))
        assert refused.exit_code == ExitCode.USAGE
        through = site_with_database.admin("files", "web", "/link/passwd")
        assert "is a link to /etc/passwd" in through.stderr

    def test_of_a_directory_of_many_names_the_first_are_listed_and_that_is_said(
        self, site_with_database: Operator, tmp_path: Path
    ) -> None:
        """What is not listed is not read, either: a guest can make millions."""
        directory = tmp_path / "files" / "many"
        directory.mkdir(parents=True)
        for number in range(10_001):
            (directory / f"{number}").touch()
        image = guest_disks.ext(tmp_path / "e", tmp_path / "files", "ext4", 24 << 20, "-N", "11000")
        single(site_with_database, image)
        document = fetched(site_with_database, "/many", code=3)
        assert len({entry["name"] for entry in document["entries"]}) == 10_000
        (problem,) = document["problems"]
        assert "more than 10000 names" in problem
        assert "the others are left out" in problem
        guest_disks.run("debugfs", "-w", "-R", "rm /many/7", image)
        put_copy(site_with_database.nas / "web", NEW, guest_disks.as_copy(image))
        document = fetched(site_with_database, "/many")
        assert len(document["entries"]) == 10_000

    def test_a_file_of_an_impossible_size_ends(
        self, site_with_database: Operator, tmp_path: Path
    ) -> None:
        files = tmp_path / "files"
        files.mkdir()
        (files / "bomb").write_bytes(b"x" * 5000)
        image = guest_disks.ext(tmp_path / "e", files)
        guest_disks.run("debugfs", "-w", "-R", "set_inode_field bomb size 0x7fffffffffff000", image)
        single(site_with_database, image)
        place = tmp_path / "place"
        place.mkdir()
        document = fetched(site_with_database, "/bomb", "--get", str(place), code=3)
        assert len(document["problems"]) == 1
        assert not (place / "bomb").exists()

    @pytest.mark.parametrize("seed", range(60 if PROVE else 3))
    def test_a_damaged_file_system_ends_with_an_answer(
        self, seed: int, site_with_database: Operator, tmp_path: Path
    ) -> None:
        files = tmp_path / "files"
        guest_disks.tree(files)
        seed = seed if PROVE else random.randrange(10**9)
        print(f"seed {seed}")
        chance = random.Random(seed)
        make = chance.choice([guest_disks.ext, guest_disks.fat])
        raw = bytearray(make(tmp_path / "image", files).read_bytes())
        used = [at for at in range(0, 4 << 20, 512) if raw[at : at + 512].strip(b"\0")]
        for at in chance.sample(used, 40):
            for _ in range(8):
                raw[at + chance.randrange(512)] = chance.choice([0, 1, 0xFF, chance.randrange(256)])
        (tmp_path / "image").write_bytes(raw)
        single(site_with_database, tmp_path / "image")
        place = tmp_path / "place"
        place.mkdir()
        result = site_with_database.admin("files", "web", "/", "--disk", "1", "--get", str(place))
        assert result.exit_code in (0, 1, 3), result.output
        assert "unexpected" not in result.output


class TestTheChild:
    """Whatever the program that reads does, the command ends with an error."""

    @pytest.mark.parametrize(
        ("program", "said"),
        [
            ("import os; os.kill(os.getpid(), 11)", "by signal 11"),
            ("import time; time.sleep(60)", "nothing came"),
            ("print('no json')", "what cannot be"),
            ('print(\'{"kind": "system", "bytes": 1e99}\')', "what cannot be"),
            ("import sys; sys.stdout.write('x' * 3000000)", "what cannot be"),
            ("pass", "with status 0"),
        ],
    )
    def test_failures(self, program: str, said: str, tmp_path: Path) -> None:
        reader = GuestReader(
            tmp_path / "x", silence_seconds=1.0, command=(sys.executable, "-c", program)
        )
        with pytest.raises(CopyError, match=said):
            reader.systems()

    def test_memory_is_bounded(
        self, copied: tuple[Operator, dict[str, str]], tmp_path: Path
    ) -> None:
        operator, _ = copied
        reader = GuestReader(operator.nas / "web" / f"{NEW}.ova", memory=96 << 20)
        with pytest.raises(CopyError):
            list(reader.list(["x"]))

    def test_a_compacted_file_of_windows_is_refused_and_not_given_as_zeros(
        self, site_with_database: Operator, tmp_path: Path
    ) -> None:
        if not (possible() or os.environ.get("CI")):
            pytest.skip("NTFS needs root")
        files = tmp_path / "files"
        files.mkdir()
        (files / "plain").write_bytes(b"plain")
        image = tmp_path / "n"
        guest_disks.ntfs(image, files, tmp_path / "mounted", compacted=("plain", 0x80000017))
        single(site_with_database, image)
        place = tmp_path / "place"
        place.mkdir()
        document = fetched(site_with_database, "/plain", "--get", str(place), code=3)
        assert "CompactOS" in document["problems"][0]["text"]
        assert list(place.iterdir()) == []


def test_a_partition_table_that_leads_nowhere(tmp_path: Path) -> None:
    from coordinator.guest.partitions import partitions

    sector = bytearray(512)
    sector[510:] = b"\x55\xaa"
    struct.pack_into("<B3xB3xII", sector, 446, 0, 0x83, 1, 2**32 - 1)
    struct.pack_into("<B3xB3xII", sector, 462, 0, 0x05, 3, 9)
    struct.pack_into("<B3xB3xII", sector, 478, 0, 0x83, 4, 2)
    circle = bytearray(512)
    circle[510:] = b"\x55\xaa"
    struct.pack_into("<B3xB3xII", circle, 462, 0, 0x05, 0, 9)
    disk = bytes(sector) + bytes(1024) + bytes(circle) + bytes(4096)
    found = partitions(lambda at, length: disk[at : at + length], len(disk))
    assert [(part.number, part.start, part.size) for part in found] == [(3, 2048, 1024)]


def test_what_the_child_says_is_bounded_in_depth() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as pipe:
        pipe.write(b"[" * 5000 + b"\n")
    try:
        with pytest.raises(CopyError, match="what cannot be"):
            Frames(read, 5).next()
    finally:
        os.close(read)
