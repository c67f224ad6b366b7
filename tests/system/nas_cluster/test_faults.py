"""What a host sees when the network, the server or the server's disk fails, with the mount options
that everybody has.
"""

import time
import uuid

import pytest

from deploy.testbed.nas.cluster import Cluster
from tests.system.nas_cluster.conftest import KINDS

pytestmark = pytest.mark.nas("cluster")

#: Writes a file as a careful program does: a private name, fsync, rename, fsync of the directory.
WRITE = """
import os, sys
directory, text, *options = sys.argv[1:]
os.makedirs(directory, exist_ok=True)
with open(directory + "/private", "w") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
os.rename(directory + "/private", directory + "/file")
for path in [directory, directory + "/file"] if "again" in options else [directory]:
    descriptor = os.open(path, os.O_RDONLY if path == directory else os.O_WRONLY)
    os.fsync(descriptor)
    os.close(descriptor)
print("done")
"""


@pytest.fixture
def directory() -> str:
    """A name that no other test uses."""
    return uuid.uuid4().hex


def writing(path: str, text: str, *options: str) -> list[str]:
    return ["python3", "-S", "-c", WRITE, path, text, *options]


def write(lan: Cluster, host: str, path: str, text: str, *options: str) -> str:
    return lan[host].check(*writing(path, text, *options))


def read(lan: Cluster, host: str, path: str) -> str:
    return lan[host].check("sh", "-c", 'ls "$1" >/dev/null && cat "$1/file"', "sh", path)


def test_whose_clock_a_file_has(lan: Cluster, directory: str) -> None:
    """By NFS the server's; by SMB that of the host that wrote it.

    Why ages are never computed between hosts.
    """
    lan["a"].set_clock(3600)
    for kind in KINDS:
        path = f"/mnt/{kind}/{directory}-{kind}"
        write(lan, "a", path, "x")
        lan["a"].check("touch", f"{path}/touched")
        ahead = (
            float(lan["b"].check("sh", "-c", f"ls {path} >/dev/null; stat -c %Y {path}/touched"))
            - time.time()
        )
        expected = 3600 if kind == "smb" else 0
        assert abs(ahead - expected) < 30, kind


def test_a_directory_has_the_servers_clock(lan: Cluster, directory: str) -> None:
    """By all of them: this is how the NAS is asked for its time."""
    lan["a"].set_clock(3600)
    for kind in KINDS:
        path = f"/mnt/{kind}/{directory}-{kind}"
        lan["a"].check("mkdir", path)
        assert abs(float(lan["a"].check("stat", "-c", "%Y", path)) - time.time()) < 30, kind


def test_a_cut_network_delays_and_does_not_fail(lan: Cluster, directory: str) -> None:
    jobs = {}
    for kind in KINDS:
        write(lan, "a", f"/mnt/{kind}/{directory}-{kind}", "before")
    lan["a"].cut()
    for kind in KINDS:
        jobs[kind] = lan["a"].spawn(writing(f"/mnt/{kind}/{directory}-{kind}", "during"))
    time.sleep(4)
    for job in jobs.values():
        with pytest.raises(TimeoutError):
            job.wait(0.1)
    lan["a"].heal()
    for kind, job in jobs.items():
        with job:
            assert (job.wait(60), job.output) == (0, "done\n"), kind
        assert read(lan, "b", f"/mnt/{kind}/{directory}-{kind}") == "during"


def test_a_power_cut_of_the_server_keeps_what_was_synced(lan: Cluster, directory: str) -> None:
    """By SMB only if the file is synced once more after it got its name.

    Fsync of a directory does nothing there.
    """
    for kind in KINDS:
        write(lan, "a", f"/mnt/{kind}/{directory}-{kind}-once", "synced")
        write(lan, "a", f"/mnt/{kind}/{directory}-{kind}", "synced", "again")
    last = f"/mnt/smb/{directory}-last"
    write(lan, "a", last, "synced")
    lan.server.kill()
    lan.server.boot()
    for kind in KINDS:
        for host in ("a", "b"):
            assert read(lan, host, f"/mnt/{kind}/{directory}-{kind}") == "synced", kind
            if kind != "smb":
                assert read(lan, host, f"/mnt/{kind}/{directory}-{kind}-once") == "synced", kind
        assert write(lan, "a", f"/mnt/{kind}/{directory}-{kind}", "later") == "done\n"
    assert lan["b"].run(["ls", f"{last}/file"])[0], (
        "the name survived: SMB may have become more careful"
    )


def test_a_restart_of_the_services_delays_and_does_not_fail(lan: Cluster, directory: str) -> None:
    lan.server.stop_service()
    jobs = {kind: lan["a"].spawn(writing(f"/mnt/{kind}/{directory}-{kind}", "x")) for kind in KINDS}
    time.sleep(1)
    lan.server.start_service()
    for kind, job in jobs.items():
        with job:
            assert (job.wait(60), job.output) == (0, "done\n"), kind


def test_a_full_disk_is_reported_by_fsync_and_seen_before(lan: Cluster, directory: str) -> None:
    """Writing succeeds into the cache of the host; only fsync tells.

    The free space is known beforehand.
    """
    for kind in KINDS:
        write(lan, "a", f"/mnt/{kind}/{directory}-{kind}", "before")
    lan.server.fill_disk()
    try:
        for kind in KINDS:
            path = f"/mnt/{kind}/{directory}-{kind}"
            assert lan["a"].check("stat", "-f", "-c", "%a", path) == "0\n"
            status, output = lan["a"].run(
                ["dd", "if=/dev/zero", f"of={path}/big", "bs=64k", "count=4", "conv=fsync"]
            )
            assert status, kind
            assert "No space left on device" in output, kind
            assert read(lan, "b", path) == "before"
    finally:
        lan.server.free_disk()


def test_a_read_only_disk_refuses_writes_and_serves_reads(lan: Cluster, directory: str) -> None:
    for kind in KINDS:
        write(lan, "a", f"/mnt/{kind}/{directory}-{kind}", "before")
    lan.server.make_read_only()
    try:
        for kind in KINDS:
            path = f"/mnt/{kind}/{directory}-{kind}"
            assert lan["a"].run(["touch", f"{path}/new"])[0], kind
            assert lan["a"].run(["ln", f"{path}/file", f"{path}/link"])[0], kind
            assert read(lan, "b", path) == "before"
    finally:
        lan.server.make_writable()
