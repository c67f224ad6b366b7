"""The disk of a VM that runs from its copy on a real NFS or SMB mount, which goes away meanwhile.

The server of the disk, the mount and the outages are real; who reads is no VM, for VirtualBox takes
many minutes in the test bed. With the real VirtualBox, a VM runs in
tests/system/test_boot_virtualbox.py, and from such mounts, which do not go away, in
tests/system/test_boot_from_mounts_virtualbox.py.
"""

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.booting.machine_making import DISK_SERVER
from coordinator.mounting.steady_copy import SteadyCopy
from shared.host.process_identity import ProcessIdentity, wait_until_gone
from shared.serving import starting
from shared.tasks import boot_mounts, boot_note
from shared.tasks.boot_note import BootDisk, BootNote, Phase
from shared.virtualbox import scratch
from tests.support.copies import ova, vmdk
from tests.support.waiting import wait_for
from tests.system.nas.conftest import Share

pytestmark = [
    pytest.mark.nas("guest"),
    pytest.mark.needs("fusermount3", "fuse3"),
    pytest.mark.needs("qemu-img", "qemu-utils"),
]

UUID = "11111111-2222-3333-4444-555555555555"
GRAIN = 65536
DISK_GRAINS = 480
#: Every third MiB of the disk is a hole.
GRAINS = {
    number: random.Random(number).randbytes(GRAIN)
    for number in range(DISK_GRAINS)
    if number // 16 % 3
}
#: With this on the wire it is not filled in less than a minute, however fast the machine is.
SLOWLY = "2mbit"


@dataclass(frozen=True)
class Served:
    """A disk that is served and filled; `raw` has what a guest must read from it."""

    note: BootNote
    server: ProcessIdentity
    raw: Path

    @property
    def disk(self) -> Path:
        return self.note.place / self.note.disks[0].file

    def reader(self) -> "subprocess.Popen[str]":
        """Reads all of the disk and compares it, by no code of ours."""
        words = ["qemu-img", "compare", "-f", "vdi", "-F", "raw", str(self.disk), str(self.raw)]
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


@pytest.fixture
def slowly() -> Iterator[None]:
    """What comes from the NAS to host B comes slowly."""
    run("modprobe", "-a", "fuse", "sch_netem")
    run("tc", "qdisc", "add", "dev", "v-b", "root", "netem", "rate", SLOWLY)
    yield
    at_full_speed()


def at_full_speed() -> None:
    words = ("tc", "qdisc", "del", "dev", "v-b", "root")
    subprocess.run(words, check=False, capture_output=True)


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    """A directory with more room than the machine has: else nothing of the disk would be kept."""
    place = tmp_path / "roomy"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=2g", "roomy", str(place))
    yield place
    run("umount", str(place))


@pytest.fixture
def served(share: Share, slowly: None, roomy: Path) -> Iterator[Served]:
    """A disk whose copy host A has written, served by host B."""
    Path(share.on("a", "copy.ova")).write_bytes(ova(vmdk(GRAINS, DISK_GRAINS)))
    os.listdir(share.on("b"))
    raw = roomy / "raw"
    raw.write_bytes(b"".join(GRAINS.get(number, bytes(GRAIN)) for number in range(DISK_GRAINS)))
    note = noted(Path(share.on("b", "copy.ova")), roomy)
    job = {"note": str(note.file), "ova": share.on("b", "copy.ova"), "sha256": "whole"}
    job |= {"config": str(roomy / "none.toml")}
    started = starting.start(job | {"fresh": True, "indexed": True}, command=DISK_SERVER)
    server = ProcessIdentity.of(started.pid)
    assert server is not None
    yield Served(note, server, raw)
    if server.is_certain():
        os.kill(server.pid, signal.SIGTERM)
        assert wait_until_gone(server, timeout_seconds=100)
    assert not boot_mounts.is_mounted(note)
    os.unlink(share.on("a", "copy.ova"))


def noted(copy: Path, folder: Path) -> BootNote:
    """A VM whose folder is made, with one disk."""
    (folder / "state").mkdir()
    with SteadyCopy(copy) as steady:
        member = steady.reader().disks[0].name
    note = BootNote(
        boot_note.new_file(folder / "state"),
        folder / "web",
        *("web", UUID, "original", "web", "20261122T203800Z-17", "sha256:whole"),
        (BootDisk(member, UUID, "web-disk001.vdi"),),
        "2026-11-22T20:38:00Z",
        phase=Phase.RUNNING,
    )
    scratch.make(note.folder, note.mark)
    note.place.mkdir()
    note.filling.mkdir()
    boot_note.write(note)
    return note


@contextlib.contextmanager
def away(how: tuple[str, ...], back: tuple[str, ...]) -> Iterator[None]:
    """Within, the NAS is away."""
    run("nas", *how)
    try:
        yield
    finally:
        run("nas", *back)


@pytest.mark.parametrize("share", ["nfs", "smb"], indirect=True)
def test_while_the_nas_is_away_reads_wait_or_fail_and_it_is_filled_when_that_is_back(
    share: Share, served: Served
) -> None:
    with contextlib.ExitStack() as stack:
        with away(("cut", "b"), ("heal", "b")):
            first = stack.enter_context(served.reader())
            has_not_read_all(first, served)
        with away(("server", "stop"), ("server", "start")):
            second = stack.enter_context(served.reader())
            has_not_read_all(second, served)
        at_full_speed()
        for reader in (first, second):
            said, _ = reader.communicate()
            assert "mismatch" not in said, "it was shown zeros, or other bytes"
            assert reader.returncode == 0 or not share.is_nfs, said
    wait_for(lambda: served.note.is_whole, "it to be filled", 200)
    with served.reader() as third:
        said, _ = third.communicate()
        assert third.returncode == 0, said
    partial = str(served.note.partial(served.note.disks[0]))
    run("qemu-img", "compare", "-f", "vdi", "-F", "raw", partial, str(served.raw))
    assert served.server.is_certain(), "it is another one by now"


def has_not_read_all(reader: "subprocess.Popen[str]", served: Served) -> None:
    """For that nobody can, while the NAS is away and a part of the disk is still there only."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        reader.wait(3)
    assert reader.poll() != 0, "it was shown what nobody has"
    assert not served.note.is_whole, "it was filled before"
    assert not served.note.progress.read().get("short")
