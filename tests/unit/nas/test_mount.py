import errno
import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.host.configuration import Nas
from shared.host.errors import ExitCode, NasError
from shared.host.processes import Completed, SubprocessRunner
from shared.nas import mount as mounts
from shared.nas.mount import check_nas, is_there

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs a mount table")


def nas(path, **changes):
    return Nas(**{"mountpoint": path, "require_mount": False, **changes})


class Answering:
    """A runner whose probe answers what it is told."""

    def __init__(self, stdout="", *, status=0, stderr="", timed_out=False):
        self.completed = Completed((), status, stdout, stderr, timed_out)
        self.calls = []

    def run(self, arguments, *, timeout_seconds, environment=None):
        self.calls.append((list(arguments), timeout_seconds))
        return self.completed


class Hanging(SubprocessRunner):
    """A runner whose probe hangs, as one does on a dead hard mount."""

    def run(self, arguments, *, timeout_seconds, environment=None):
        hangs = [arguments[0], "-c", "import time; time.sleep(60)"]
        return super().run(hangs, timeout_seconds=timeout_seconds, environment=environment)


def test_a_directory_that_answers(tmp_path):
    found = check_nas(nas(tmp_path))
    room = os.statvfs(tmp_path)
    assert found.path == tmp_path
    assert found.total == room.f_frsize * room.f_blocks
    assert 0 < found.free <= found.total


def test_the_write_test_leaves_nothing(tmp_path):
    (tmp_path / "vmstate").mkdir()
    check_nas(nas(tmp_path), write=True)
    assert os.listdir(tmp_path / "vmstate") == []
    (tmp_path / "vmstate").rmdir()
    with pytest.raises(NasError, match="No such file"):
        check_nas(nas(tmp_path), write=True)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("gone", "No such file or directory"),
        ("file", "Not a directory"),
        ("loop", "symbolic links"),
        ("dangling", "No such file"),
    ],
)
def test_what_is_no_directory(tmp_path, place, reason):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(NasError, match=reason) as caught:
        check_nas(nas(tmp_path / place))
    assert caught.value.exit_code is ExitCode.NAS
    assert "correct nas.mountpoint" in caught.value.hint


def test_an_ordinary_directory_is_no_mount(tmp_path):
    with pytest.raises(NasError, match="nothing is mounted") as caught:
        check_nas(nas(tmp_path, require_mount=True))
    assert f"mount {tmp_path}" in caught.value.hint


@LINUX
def test_a_mount_point_and_a_link_to_it(tmp_path):
    (tmp_path / "nas").symlink_to("/dev/shm")
    found = check_nas(nas(tmp_path / "nas", require_mount=True))
    assert found.mount is not None
    assert (found.path, found.mount.filesystem) == (Path("/dev/shm"), "tmpfs")


TABLE = r"""27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:31 / /mnt/nas rw,relatime shared:5 - autofs systemd-1 rw,fd=30
31 30 0:55 / /mnt/nas rw,noatime shared:9 - nfs4 server:/export rw,vers=4.2,soft,timeo=600
32 27 0:56 / /mnt/wait rw - autofs systemd-1 rw
33 27 254:0 /srv /mnt/a\040b rw - ext4 /dev/vda rw
"""


def answer(real):
    return Answering(f"{real}\t0\t0\t4096\t1000\t500")


def test_the_mount_table_decides(tmp_path):
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    found = check_nas(nas("/mnt/nas", require_mount=True), runner=answer("/mnt/nas"), mounts=table)
    assert found.mount is not None
    assert (found.mount.filesystem, found.mount.source) == ("nfs4", "server:/export")
    assert {"noatime", "soft", "vers=4.2"} <= set(found.mount.options)
    assert (found.free, found.total) == (4096 * 500, 4096 * 1000)
    bind = check_nas(nas("/mnt/a b", require_mount=True), runner=answer("/mnt/a b"), mounts=table)
    assert bind.mount.source == "/dev/vda"
    for place in ("/mnt/wait", "/mnt/nas/below", "/mnt/nasty"):
        with pytest.raises(NasError, match="nothing is mounted"):
            check_nas(nas(place, require_mount=True), runner=answer(place), mounts=table)


def test_without_a_mount_table_device_numbers_decide(tmp_path):
    missing = tmp_path / "none"
    assert (
        check_nas(
            nas("/Volumes/nas", require_mount=True),
            runner=Answering("/Volumes/nas\t1\t0\t1\t1\t1"),
            mounts=missing,
        ).mount
        is None
    )
    with pytest.raises(NasError, match="nothing is mounted"):
        check_nas(
            nas("/Volumes/nas", require_mount=True),
            runner=Answering("/Volumes/nas\t0\t0\t1\t1\t1"),
            mounts=missing,
        )


@pytest.mark.parametrize(
    ("runner", "reason"),
    [
        (Answering(timed_out=True), "did not answer within 7 seconds"),
        (Answering(f"error\t{errno.ESTALE}\t/nas"), "Stale file handle"),
        (Answering("/nas\t1\t1\t1\t1\t1"), "mounted read-only"),
        (Answering(status=1, stderr="Traceback\nMemoryError"), "MemoryError"),
        (Answering("nonsense"), "it said nothing"),
        (Answering("/nas\t1\tx\t1\t1\t1"), "it said nothing"),
    ],
)
def test_what_the_probe_may_say(runner, reason):
    with pytest.raises(NasError, match=reason) as caught:
        check_nas(nas("/nas", probe_seconds=7), runner=runner)
    assert caught.value.hint
    assert runner.calls[0][1] == 7


def test_a_mount_that_never_answers_is_given_up(tmp_path):
    """The worker goes on."""
    began = time.monotonic()
    with pytest.raises(NasError, match="did not answer"):
        check_nas(nas(tmp_path, probe_seconds=0.3), runner=Hanging())
    assert time.monotonic() - began < 5


@given(st.text() | st.text(" -/\\01234,\n", max_size=80))
def test_any_mount_table_is_read(text):
    for found in mounts.parse_mounts(text):
        assert isinstance(found.path, str)


def test_no_name_ends_a_line_of_the_mount_table(tmp_path):
    """The kernel escapes the line feed alone."""
    table = tmp_path / "mountinfo"
    line = "36 35 98:0 / /mnt/a\u2028b\x85c\rd rw,noatime - nfs server:/x\x0by rw"
    table.write_bytes(f"{line}\n{line}\n".encode())
    found = list(mounts.mount_table(table))
    assert [each.path for each in found] == ["/mnt/a\u2028b\x85c\rd"] * 2


@pytest.mark.broad
def test_whether_a_directory_is_there_is_asked_of_a_child_that_may_hang(tmp_path):
    assert is_there(tmp_path, 10)
    assert not is_there(tmp_path / "none" / "below", 10)
    (tmp_path / "file").write_text("")
    with pytest.raises(NasError, match="Not a directory"):
        is_there(tmp_path / "file", 10)
    with pytest.raises(NasError, match=rf"the NAS at {tmp_path} did not answer within 0.3 seconds"):
        is_there(tmp_path, 0.3, runner=Hanging())
