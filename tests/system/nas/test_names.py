"""Who gets a name when two hosts want it, and what a host sees of names that another one made.

The state database stands on this: a generation is published under a name that nobody else has, and
found by listing.
"""

import ctypes
import errno
import os
import threading
from collections.abc import Callable

import pytest

from tests.system.nas.conftest import HOSTS, Share

pytestmark = pytest.mark.nas("guest")


def believe_absent(share: Share, host: str, name: str) -> None:
    """Makes the cache of a host remember that there is no such name."""
    os.listdir(share.on(host))
    assert not os.path.exists(share.on(host, name))
    share.pass_tick()


def create_exclusively(path: str, text: str = "") -> None:
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)


def test_exclusive_create_is_decided_by_the_server(share: Share) -> None:
    believe_absent(share, "b", "x")
    create_exclusively(share.on("a", "x"), "a's")
    with pytest.raises(FileExistsError):
        create_exclusively(share.on("b", "x"), "b's")
    assert share.read("b", "x") == "a's"


def test_link_never_replaces(share: Share) -> None:
    believe_absent(share, "b", "x")
    share.write("a", "x", "a's")
    share.write("b", "mine", "b's")
    with pytest.raises(FileExistsError):
        os.link(share.on("b", "mine"), share.on("b", "x"))
    assert share.read("b", "x") == "a's"
    assert share.read("c", "x") == "a's"


def test_link_publishes_a_complete_file(share: Share) -> None:
    share.write("a", "private", "complete")
    os.link(share.on("a", "private"), share.on("a", "x"))
    os.unlink(share.on("a", "private"))
    assert share.read("b", "x") == "complete"


def test_rename_of_a_directory_never_replaces_a_filled_one(share: Share) -> None:
    believe_absent(share, "b", "x")
    for host in ("a", "b"):
        os.mkdir(share.on(host, f"private-{host}"))
        share.write(host, f"private-{host}/snap", host)
    os.rename(share.on("a", "private-a"), share.on("a", "x"))
    with pytest.raises(OSError, match=f"Errno ({errno.ENOTEMPTY}|{errno.EEXIST})"):
        os.rename(share.on("b", "private-b"), share.on("b", "x"))
    assert share.read("b", "x/snap") == "a"


def test_rename_of_a_directory_replaces_an_empty_one(share: Share) -> None:
    """Hence a name that was published as a directory is never left empty."""
    for name in ("private", "x"):
        os.mkdir(share.on("a", name))
    share.write("a", "private/snap", "new")
    os.rename(share.on("a", "private"), share.on("a", "x"))
    assert share.read("b", "x/snap") == "new"


def test_mkdir_is_decided_by_the_server(share: Share) -> None:
    believe_absent(share, "b", "x")
    os.mkdir(share.on("a", "x"))
    with pytest.raises(FileExistsError):
        os.mkdir(share.on("b", "x"))


def link_own_file(share: Share, host: str, name: str) -> None:
    os.link(share.on(host, f"of-{host}"), share.on(host, name))


def make_exclusively(share: Share, host: str, name: str) -> None:
    create_exclusively(share.on(host, name), host)


@pytest.mark.parametrize("take", [link_own_file, make_exclusively])
def test_one_of_three_hosts_gets_the_name(
    share: Share, take: Callable[[Share, str, str], None]
) -> None:
    names = [f"{number}" for number in range(25)]
    winners: dict[str, list[str]] = {name: [] for name in names}
    start = threading.Barrier(len(HOSTS))

    def contend(host: str) -> None:
        share.write(host, f"of-{host}", host)
        for name in names:
            start.wait(30)
            try:
                take(share, host, name)
            except FileExistsError:
                continue
            winners[name].append(host)

    threads = [threading.Thread(target=contend, args=(host,)) for host in HOSTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {name: len(hosts) for name, hosts in winners.items()} == dict.fromkeys(names, 1)
    for name, hosts in winners.items():
        assert share.read("a", name) == hosts[0]
    if take is link_own_file:
        assert len({hosts[0] for hosts in winners.values()}) > 1, (
            "one host won every time: there was no contention"
        )


def change_again(share: Share, *, unless: bool) -> None:
    """On NFS 3 a listing may be behind until the directory changes once more, seldom even if its
    clock has ticked (docs/nas.md).
    """
    if share.kind == "nfs3" and not unless:
        share.pass_tick()
        share.write("a", "another", "change")


def test_a_listing_shows_a_new_name_at_once(share: Share) -> None:
    for number in range(10):
        assert f"{number}" not in os.listdir(share.on("b"))
        share.write("a", f"{number}", "new")
        change_again(share, unless=f"{number}" in os.listdir(share.on("b")))
        assert f"{number}" in os.listdir(share.on("b")), share.times()
        share.pass_tick()


def test_a_listing_misses_a_removed_name_at_once(share: Share) -> None:
    for number in range(10):
        share.write("a", f"{number}", "new")
        change_again(share, unless=f"{number}" in os.listdir(share.on("b")))
        assert f"{number}" in os.listdir(share.on("b"))
        share.pass_tick()
        os.unlink(share.on("a", f"{number}"))
        change_again(share, unless=f"{number}" not in os.listdir(share.on("b")))
        assert f"{number}" not in os.listdir(share.on("b")), share.times()
        share.pass_tick()


def test_a_name_that_was_missed_stays_missing_without_a_listing(share: Share) -> None:
    """Why nothing may be concluded from a name that is not found.

    Also: this test bed has the caches that real hosts have.
    """
    believe_absent(share, "b", "x")
    share.write("a", "x", "new")
    if share.is_nfs:
        assert not os.path.exists(share.on("b", "x"))
        with pytest.raises(FileNotFoundError):
            open(share.on("b", "x"), encoding="utf-8").close()
        with pytest.raises(FileNotFoundError):
            os.unlink(share.on("b", "x"))
    os.listdir(share.on("b"))
    os.rename(share.on("b", "x"), share.on("b", "y"))
    assert share.read("a", "y") == "new"


def test_smb_names_differ_by_more_than_case(share: Share) -> None:
    """Why the directories of two VMs are told apart by more than the case of their names."""
    create_exclusively(share.on("a", "Web"))
    if share.is_nfs:
        create_exclusively(share.on("b", "web"))
    else:
        with pytest.raises(FileExistsError):
            create_exclusively(share.on("b", "web"))


def rename_exchanging(share: Share, host: str, source: str, target: str) -> None:
    """renameat2 with RENAME_EXCHANGE, for which Python has no name."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(
        -100, share.on(host, source).encode(), -100, share.on(host, target).encode(), 2
    ):
        raise OSError(ctypes.get_errno(), "renameat2")


def test_two_names_cannot_be_exchanged(share: Share) -> None:
    """Why a file lock that swaps a stale marker for its own never takes over on a NAS."""
    for name in ("x", "y"):
        share.write("a", name, name)
    with pytest.raises(OSError, match=f"Errno {errno.EINVAL}"):
        rename_exchanging(share, "a", "x", "y")
    assert share.read("a", "x") == "x"
