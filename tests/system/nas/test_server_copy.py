"""What is measured of a mount: whether the server copies by itself, also beside other traffic."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.testbed.nas.guest.system import mount
from shared.host.clock import SystemClock
from shared.host.configuration import Nas
from shared.nas import server_copy
from shared.nas.mount import check_nas
from shared.nas.server_copy import Answer
from tests.system.nas.conftest import Share

pytestmark = pytest.mark.nas("guest")

MIB = 2**20


def measure(share: Share, folder: Path) -> Answer:
    """By the real probe, at host A's mount."""
    place = Path(share.on("a"))
    nas = Nas(mountpoint=place, require_mount=False, reserve=0)
    answer = server_copy.measure(nas, check_nas(nas), place, folder, SystemClock())
    assert [name for name in os.listdir(place) if name.startswith(".vmbackup")] == []
    return answer


@contextmanager
def traffic(share: Share, *, pause: float) -> Iterator[None]:
    """Another process of this machine that writes to the same mount."""
    done = threading.Event()

    def work() -> None:
        with open(share.on("a", "traffic"), "wb", buffering=0) as file:
            while not done.wait(pause):
                os.pwrite(file.fileno(), os.urandom(4 * MIB), 0)
                os.fsync(file.fileno())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        os.unlink(share.on("a", "traffic"))


def test_whether_the_server_copies_is_measured(share: Share, tmp_path: Path) -> None:
    began = time.monotonic()
    answer = measure(share, tmp_path)
    print(f"{share.kind}: {answer} in {time.monotonic() - began:.2f} s")
    assert answer.found is not None
    assert answer.found.copies == (share.kind != "nfs3")
    assert answer.found.shares is not True, "the disk of the NAS is an ext4"


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_traffic_of_others_does_not_make_it_say_the_wrong_thing(
    share: Share, tmp_path: Path, pause: float
) -> None:
    with traffic(share, pause=pause):
        answer = measure(share, tmp_path)
    print(f"{share.kind} beside a writer with pauses of {pause} s: {answer}")
    if answer.found is not None:
        assert answer.found.copies == (share.kind != "nfs3")
    else:
        assert "others" in answer.unknown


@pytest.fixture
def xfs_share(tmp_path: Path) -> Iterator[Path]:
    """A share of the SMB server on an XFS with reflink, mounted by host A."""
    image, disk, mountpoint = Path("/dev/shm/xfs.img"), tmp_path / "xfs", tmp_path / "share"
    for place in (disk, mountpoint):
        place.mkdir()
    with image.open("wb") as file:
        file.truncate(320 * MIB)
    configuration = Path("/etc/samba/smb.conf")
    before = configuration.read_text(encoding="utf-8")
    run("modprobe", "-a", "loop", "xfs")
    run("mkfs.xfs", "-q", "-m", "reflink=1", image)
    run("mount", "-o", "loop", image, disk)
    disk.chmod(0o777)
    configuration.write_text(
        f"{before}\n[xfs]\npath = {disk}\nread only = no\nforce user = root\n", encoding="utf-8"
    )
    run("smbcontrol", "all", "reload-config")
    try:
        server = "10.77.11.1"
        options = f"unc=\\\\{server}\\xfs,ip={server},vers=3.1.1,user=root,pass=nas,nosharesock"
        mount(f"//{server}/xfs", str(mountpoint), "cifs", options)
        yield mountpoint
    finally:
        configuration.write_text(before, encoding="utf-8")
        for place in (mountpoint, disk):
            subprocess.run(["umount", place], check=False)
        image.unlink()


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def test_that_xfs_behind_samba_shares_blocks_is_seen_by_its_room(
    xfs_share: Path, tmp_path: Path
) -> None:
    nas = Nas(mountpoint=xfs_share, reserve=0)
    status = check_nas(nas)
    answer = server_copy.measure(nas, status, xfs_share, tmp_path / "state", SystemClock())
    assert answer.found is not None
    assert (answer.found.copies, answer.found.shares) == (True, True)
    assert answer.aligned("auto")


def test_a_nas_that_gets_read_only_says_nothing(share: Share, tmp_path: Path) -> None:
    place = Path(share.on("a"))
    nas = Nas(mountpoint=place, require_mount=False, reserve=0)
    status = replace(check_nas(nas), read_only=True)
    assert server_copy.measure(nas, status, place, tmp_path, SystemClock()).found is None
    assert list(tmp_path.iterdir()) == []
