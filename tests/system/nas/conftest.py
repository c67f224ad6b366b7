"""What a test in the guest sees: one directory on the NAS, through the mounts of several hosts."""

import os
import time
import uuid
from dataclasses import dataclass

import pytest

KINDS = ("nfs", "nfs3", "smb")
HOSTS = ("a", "b", "c")

#: The clock that file systems take their times from. It ticks late when the machine is busy,
#: however long one sleeps.
COARSE = 5


@dataclass(frozen=True, slots=True)
class Share:
    """An empty directory on the NAS. Each host has its own way to it, with its own caches."""

    kind: str
    name: str

    def on(self, host: str, *parts: str) -> str:
        """The path of something in the directory, through the mount of a host."""
        return os.path.join(f"/mnt/{self.kind}-{host}", self.name, *parts)

    @property
    def is_nfs(self) -> bool:
        """Whether names and attributes are cached for long."""
        return self.kind != "smb"

    def pass_tick(self) -> None:
        """Lets the server's clock tick.

        NFS 3 tells two versions of a directory apart by its time alone (see test_directory_ticks).
        """
        before = time.clock_gettime(COARSE)
        while time.clock_gettime(COARSE) - before < 0.02:
            time.sleep(0.01)

    def times(self) -> str:
        """When the directory was changed as each host sees it, and the time now: for messages."""
        seen = {host: os.stat(self.on(host)).st_mtime_ns for host in HOSTS}
        return (
            f"changed {seen}, now {time.clock_gettime_ns(COARSE)}; listed again: "
            f"{os.listdir(self.on('b'))}"
        )

    def write(self, host: str, name: str, text: str) -> None:
        """Makes a file as a careful program does: a private name, fsync, rename."""
        private = f"{self.on(host, name)}.{uuid.uuid4().hex}"
        with open(private, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(private, self.on(host, name))

    def read(self, host: str, name: str) -> str:
        """Reads a file as a careful program does.

        Lists the directory first, which makes the caches look again.
        """
        os.listdir(self.on(host))
        with open(self.on(host, name), encoding="utf-8") as file:
            return file.read()


@pytest.fixture(params=KINDS)
def share(request: pytest.FixtureRequest) -> Share:
    """An empty directory on the NAS, by NFS 4.2, NFS 3 and SMB in turn."""
    share = Share(request.param, uuid.uuid4().hex)
    os.mkdir(share.on("a"))
    share.pass_tick()
    return share
