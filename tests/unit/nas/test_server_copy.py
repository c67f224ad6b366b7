"""What a NAS copies by itself: measured, remembered, and never believed by its name."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.host.clock import SystemClock, timestamp
from shared.host.configuration import Nas
from shared.host.processes import Completed, Runner
from shared.nas import server_copy, server_copy_probe
from shared.nas.mount import Mount, NasStatus, check_nas
from shared.nas.server_copy import Answer, ServerCopy
from tests.support.packages import require

CLOCK = SystemClock()
MIB = 2**20
SMB = Mount("/mnt/nas", "cifs", "//nas/backup", ("rw", "vers=3.1.1"))
DISK = Mount("/mnt/nas", "xfs", "/dev/sdb1", ("rw",))
GOOD = ServerCopy("2026-11-29T12:00:00Z", copies=True, shares=True)
BAD = ServerCopy("2026-11-29T12:00:00Z", copies=False, shares=False, reason="it does not")
NOISE = st.integers(0, 2**40)
FEW = server_copy_probe.SIZE // 8


class Says:
    """A runner that answers with one line, and counts how often it was asked."""

    def __init__(self, line: str, *, timed_out: bool = False, status: int = 0) -> None:
        self.line, self.timed_out, self.status = line, timed_out, status
        self.asked: list[Sequence[str]] = []

    def run(self, arguments: Sequence[str], **_: object) -> Completed:
        self.asked.append(arguments)
        return Completed(tuple(arguments), self.status, self.line, "", timed_out=self.timed_out)


@given(st.lists(st.tuples(NOISE, NOISE), max_size=8))
def test_traffic_of_others_never_makes_it_say_the_wrong_thing(
    noise: list[tuple[int, int]],
) -> None:
    """What is counted is what we carried and what others did, who may be at it all the time."""
    through = [(server_copy_probe.SIZE + of_others, rest) for of_others, rest in noise]
    assert server_copy_probe.judge(through) is not True
    if all(rest >= FEW for _, rest in noise):
        by_itself = [(FEW // 2 + of_others, rest) for of_others, rest in noise]
        assert server_copy_probe.judge(by_itself) is not False


def test_a_quiet_moment_proves_it_and_three_loud_copies_between_quiet_pauses_refute_it() -> None:
    size = server_copy_probe.SIZE
    assert server_copy_probe.judge([(9 * size, size), (8000, size)]) is True
    assert server_copy_probe.judge([(size, 0)] * 2) is None
    assert server_copy_probe.judge([(size, 0)] * 3) is False
    assert server_copy_probe.judge([(size, 0), (size, size), (size, 0)]) is None


def test_the_counters_of_one_nfs_mount_and_of_all_smb_shares_are_read() -> None:
    stats = (
        "device nas:/a mounted on /mnt/nas with fstype nfs4 statvers=1.1\n"
        "\tbytes:\t1 2 3 4 50 60 7 8\n\tper-op statistics\n"
        "device nas:/b mounted on /mnt/my\\040nas with fstype nfs4 statvers=1.1\n"
        "\tbytes:\t1 2 3 4 5 6 7 8\n"
        "device rootfs mounted on / with fstype rootfs\n"
    )
    assert server_copy_probe.parse_nfs(stats, "/mnt/nas") == (50, 60)
    assert server_copy_probe.parse_nfs(stats, "/mnt/my nas") == (5, 6)
    for lost in ("/mnt", "/"):
        with pytest.raises(ValueError, match="does not count"):
            server_copy_probe.parse_nfs(stats, lost)
    shares = (
        "1) \\\\a\\b\nBytes read: 5  Bytes written: 7\n2) \\\\a\\c\nBytes read: 1  Bytes written: 2"
    )
    assert server_copy_probe.parse_cifs(shares) == (6, 9)
    with pytest.raises(ValueError, match="does not count"):
        server_copy_probe.parse_cifs("Resources in use")


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., Answer]:
    """Looks up what the NAS at `tmp_path` does, mounted in some way."""
    (tmp_path / "vmstate").mkdir()
    nas = Nas(mountpoint=tmp_path, require_mount=False)

    def find(runner: Runner | None = None, mount: Mount | None = SMB, **changes: object) -> Answer:
        status = replace(NasStatus(tmp_path, 2**40, 2**41, mount), **changes)
        return server_copy.look_up(nas, status, tmp_path / "state", CLOCK, runner)

    return find


@pytest.mark.broad
def test_an_answer_is_remembered_for_this_mount_and_kernel_for_a_month(
    look: Callable[..., Answer], tmp_path: Path
) -> None:
    says = Says("copies\tshares\t")
    first = look(says)
    assert first.found == ServerCopy(timestamp(CLOCK.now()), copies=True, shares=True)
    assert look(says) == first
    assert len(says.asked) == 1
    look(says, replace(SMB, source="//other/backup"))
    look(says, replace(SMB, options=("rw", "vers=2.1")))
    assert len(says.asked) == 3
    note = tmp_path / "state" / "server-copies.json"
    rows = json.loads(note.read_text())
    assert len(rows) == 3
    assert all(os.uname().release in key for key in rows)
    old = timestamp(CLOCK.now() - timedelta(days=31))
    note.write_text(json.dumps({key: {**row, "time": old} for key, row in rows.items()}))
    assert look(says) == first
    assert len(says.asked) == 4
    assert len(json.loads(note.read_text())) == 1, "what is old goes"


@pytest.mark.parametrize("noted", ["", "[]", "{", '{"": 7}', "\0" * 100])
def test_a_note_that_says_nonsense_counts_as_none(
    look: Callable[..., Answer], tmp_path: Path, noted: str
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "server-copies.json").write_text(noted)
    assert look(Says("sends\tapart\tit does not")).found is not None


@pytest.mark.parametrize(
    ("runner", "changes", "reason"),
    [
        (Says("", timed_out=True), {}, "did not answer within 30 seconds"),
        (Says("", status=-9), {}, "without an answer"),
        (Says("Traceback"), {}, "without an answer"),
        (Says("unknown\tunknown\tNo space left on device"), {}, "No space left"),
        (Says("copies\tshares\t"), {"read_only": True}, "read-only"),
        (Says("copies\tshares\t"), {"free": 2**20}, "no room"),
    ],
)
def test_a_probe_that_fails_says_nothing_and_is_asked_again(
    look: Callable[..., Answer], runner: Says, changes: dict[str, object], reason: str
) -> None:
    assert look(runner, **changes).found is None
    assert reason in look(runner, **changes).refusal(SMB, "auto")
    assert look(Says("copies\tunknown\t")).refusal(SMB, "auto") == ""


@pytest.mark.parametrize(
    ("mount", "found", "reflink", "copied", "aligned"),
    [
        (SMB, GOOD, "auto", True, True),
        (SMB, replace(GOOD, shares=None), "auto", True, False),
        (SMB, replace(GOOD, shares=None), True, True, True),
        (SMB, GOOD, False, True, False),
        (SMB, BAD, "auto", False, False),
        (SMB, BAD, True, False, True),
        (SMB, None, "auto", False, False),
        (DISK, GOOD, "auto", True, True),
        (DISK, GOOD, False, False, False),
        (None, BAD, "auto", False, False),
    ],
)
def test_what_is_copied_and_how_it_is_laid_out(
    mount: Mount | None, found: ServerCopy | None, reflink: object, copied: bool, aligned: bool
) -> None:
    answer = Answer(found)
    assert (answer.refusal(mount, reflink) == "") == copied  # type: ignore[arg-type]
    assert answer.aligned(reflink) == aligned  # type: ignore[arg-type]


def test_counters_that_do_not_count_say_nothing(tmp_path: Path) -> None:
    """As on a mount that stands nowhere in them."""
    line = server_copy_probe.main("nfs", "/nowhere", str(tmp_path), "probe")
    assert line.startswith("unknown\tunknown\t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["gone", "file"])
def test_a_place_that_is_none_says_nothing(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    line = server_copy_probe.main("local", "", str(tmp_path / place), "probe")
    assert line.startswith("unknown\tunknown\t")


@pytest.fixture(params=["xfs", "btrfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A disk of its own with such a file system, and its name."""
    if os.geteuid() != 0:
        pytest.skip("a file system of its own needs root")
    kind: str = request.param
    package = {"xfs": "xfsprogs", "btrfs": "btrfs-progs", "ext4": "e2fsprogs"}[kind]
    require(f"mkfs.{kind}", package)
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(512 * MIB)
    for command in ([f"mkfs.{kind}", "-q", image], ["mount", "-o", "loop", image, place]):
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    try:
        yield kind, place
    finally:
        subprocess.run(["umount", place], check=True, stdin=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_local_disk_shares_blocks_or_does_not(disk: tuple[str, Path], tmp_path: Path) -> None:
    """By the real probe, in its process."""
    kind, place = disk
    (place / "vmstate").mkdir()
    nas = Nas(mountpoint=place, reserve=0)
    status = check_nas(nas)
    answer = server_copy.look_up(nas, status, tmp_path / "state", CLOCK)
    assert answer.found is not None
    shares = kind != "ext4"
    assert (answer.found.copies, answer.found.shares) == (shares, shares)
    assert (answer.refusal(status.mount, "auto") == "") == shares
    assert list((place / "vmstate").iterdir()) == []
