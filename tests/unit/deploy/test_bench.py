"""What the benchmark counts: the right bytes of the right mount, and the locks of VirtualBox."""

import subprocess
from pathlib import Path

import pytest

from deploy.bench.costs import mounted_at
from deploy.bench.locks import locks_a_vm

MOUNTINFO = """\
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
70 21 7:0 / /tmp/x/disks rw - xfs /dev/loop0 rw,attr2
71 21 0:40 / /tmp/x/nas rw shared:3 - btrfs /dev/loop1 rw
72 21 0:41 / /mnt/nfs-a rw - nfs4 10.77.11.1:/nfs rw,vers=4.2
73 21 0:42 / /mnt/smb-a rw - cifs //10.77.11.1/nas rw
74 21 7:2 / /tmp/x/disks rw - ext4 /dev/loop2 rw
"""


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("/tmp/x/nas", ("btrfs", "/dev/loop1")),
        ("/mnt/nfs-a", ("nfs4", "10.77.11.1:/nfs")),
        ("/mnt/smb-a", ("cifs", "//10.77.11.1/nas")),
        ("/tmp/x/disks", ("ext4", "/dev/loop2")),
    ],
)
def test_what_is_counted_is_what_was_mounted_there_last(place: str, found: tuple[str, str]) -> None:
    assert mounted_at(Path(place), MOUNTINFO) == found


def test_bytes_of_another_file_system_are_not_taken_for_those_of_a_directory_in_it() -> None:
    with pytest.raises(ValueError, match="nothing is mounted at /tmp/x"):
        mounted_at(Path("/tmp/x"), MOUNTINFO)


@pytest.mark.parametrize(
    ("words", "locks"),
    [
        (("mediumio", "--disk=x", "cat"), True),
        (("export", "x"), True),
        (("showvminfo", "export of x"), False),
    ],
)
def test_a_vm_is_locked_as_long_as_a_program_that_locks_it_runs_below_another(
    words: tuple[str, ...], locks: bool
) -> None:
    inner = ("sh", "-c", "echo; read line", "VBoxManage", *words)
    outer = ("sh", "-c", '"$@"; true', "worker", *inner)
    with subprocess.Popen(outer, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        assert locks_a_vm() == locks
        running.communicate(b"\n")
    assert not locks_a_vm()
