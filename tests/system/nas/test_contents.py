"""What a host reads of a file that another host writes."""

import errno
import os
import threading
import time
import uuid

import pytest

from tests.system.nas.conftest import Share

pytestmark = pytest.mark.nas("guest")


def test_listing_then_open_reads_the_newest_content(share: Share) -> None:
    """SMB keeps a closed file's content for a second.

    A listing alone would not be enough there if it kept it for longer.
    """
    share.write("a", "x", "0")
    assert share.read("b", "x") == "0"
    for number in range(1, 8):
        share.write("a", "x", f"{number}")
        end = time.monotonic() + 2
        while share.read("b", "x") != f"{number}":
            assert time.monotonic() < end, f"version {number} is not seen"
            time.sleep(0.05)


def test_an_immutable_name_is_complete_when_it_appears(share: Share) -> None:
    """The reader waits for each next name and reads it at once.

    As a generation of the state database is read.
    """
    text = "line\n" * 20_000
    rounds = 15
    for directory in ("private", "public"):
        os.mkdir(share.on("a", directory))
    share.pass_tick()

    def publish() -> None:
        for number in range(rounds + 1):  # one more than is waited for: see test_directory_ticks
            share.write("a", f"private/{number}", text)
            os.link(share.on("a", f"private/{number}"), share.on("a", f"public/{number}"))
            share.pass_tick()

    writer = threading.Thread(target=publish)
    writer.start()
    for number in range(rounds):
        end = time.monotonic() + 20
        while f"{number}" not in os.listdir(share.on("b", "public")):
            assert time.monotonic() < end
        with open(share.on("b", f"public/{number}"), encoding="utf-8") as file:
            assert file.read() == text
    writer.join()


def test_replaced_by_rename_is_never_torn_or_missing(share: Share) -> None:
    """A reader that is overtaken may be told ESTALE by NFS; it then reads again."""
    share.write("a", "x", "0" * 5000)
    stop = threading.Event()

    def replace() -> None:
        number = 0
        while not stop.is_set():
            number = (number + 1) % 10
            share.write("a", "x", f"{number}" * 5000)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        seen = set()
        end = time.monotonic() + 2
        while time.monotonic() < end or (
            share.is_nfs and len(seen) < 2 and time.monotonic() < end + 20
        ):
            try:
                text = share.read("b", "x")
            except OSError as error:
                if error.errno == errno.ESTALE and share.is_nfs:
                    continue
                raise
            assert (len(text), len(set(text))) == (5000, 1)
            seen.add(text[0])
    finally:
        stop.set()
        writer.join()
    if share.is_nfs:  # SMB keeps serving the old file to a reader that leaves it no second
        assert len(seen) > 1, "the reader never saw a change: nothing was shown"


def test_attributes_lag_behind_the_content(share: Share) -> None:
    """Why a heartbeat is read, never judged by the time of its file.

    Also: this test bed has the caches that real hosts have.
    """
    share.write("a", "x", "old")
    assert os.stat(share.on("b", "x")).st_size == 3
    with open(share.on("a", "x"), "r+", encoding="utf-8") as file:
        file.write("longer")
    if share.is_nfs:
        assert os.stat(share.on("b", "x")).st_size == 3
    else:
        time.sleep(1.5)
    assert share.read("b", "x") == "longer"


def test_a_directory_can_be_synced(share: Share) -> None:
    descriptor = os.open(share.on("a"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_samba_has_its_own_time_of_an_open_file() -> None:
    """Setting back a file's time on the server lets no day pass for hosts while somebody, also a
    host without power, has it open.
    """
    share = Share("smb", uuid.uuid4().hex)
    os.mkdir(share.on("a"))

    def age() -> float:
        """How old the file is for host b after its time was set back by two days on the server's
        disk.
        """
        then = time.time() - 2 * 86400
        os.utime(f"/srv/nas/smb/{share.name}/x", (then, then))
        time.sleep(1.5)  # for as long b may keep what it knew of the file
        os.listdir(share.on("b"))
        return time.time() - os.stat(share.on("b", "x")).st_mtime

    with open(share.on("a", "x"), "w", encoding="utf-8") as file:
        file.write("beat")
        file.flush()
        os.fsync(file.fileno())
        assert age() < 3600
    end = time.monotonic() + 30
    while age() < 86400:
        assert time.monotonic() < end, "the file was closed, and still has another time"
