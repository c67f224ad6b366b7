"""NFS 3 tells two versions of a directory apart by its modification time, which many servers count
in ticks of 4 or 10 ms.

A listing taken between two changes of one tick is then served again and again, until the directory
changes once more: it is not a matter of seconds. What the state database does nevertheless is shown
here too.
"""

import contextlib
import os

import pytest

from tests.system.nas.conftest import Share

pytestmark = pytest.mark.nas("guest")

ROUNDS = 25


def missed_second_change(share: Share, name: str) -> bool:
    """Two changes as fast as can be, with a look in between.

    Whether a later look misses the second one.
    """
    directory = share.on("b", name)
    os.mkdir(share.on("a", name))
    os.listdir(directory)
    share.pass_tick()
    os.mkdir(share.on("a", name, "first"))
    os.listdir(directory)
    os.mkdir(share.on("a", name, "second"))
    share.pass_tick()
    return "second" not in os.listdir(directory)


def test_only_nfs_3_misses_a_change_and_the_next_one_shows_it(share: Share) -> None:
    missed = [name for name in map(str, range(ROUNDS)) if missed_second_change(share, name)]
    if share.kind == "nfs3":
        assert missed
    else:
        assert not missed
    for name in missed:
        os.mkdir(share.on("a", name, "third"))
        assert sorted(os.listdir(share.on("b", name))) == ["first", "second", "third"]


def test_a_refused_link_reveals_the_name_that_was_missed(share: Share) -> None:
    """Why a host that missed a generation loses one race and goes on.

    The name is asked of the server again.
    """
    share.write("b", "mine", "b's")
    for number in range(ROUNDS):
        os.mkdir(share.on("a", f"{number}"))
        os.listdir(share.on("b", f"{number}"))
        share.write("a", "its", "a's")
        share.pass_tick()
        os.mkdir(share.on("a", f"{number}", "first"))
        assert os.listdir(share.on("b", f"{number}")) == ["first"] or share.kind == "nfs3"
        assert not os.path.exists(share.on("b", f"{number}", "x"))
        os.link(share.on("a", "its"), share.on("a", f"{number}", "x"))
        with contextlib.suppress(FileExistsError):
            os.link(share.on("b", "mine"), share.on("b", f"{number}", "x"))
        with open(share.on("b", f"{number}", "x"), encoding="utf-8") as file:
            assert file.read() == "a's"
