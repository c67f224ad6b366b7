"""`state.readable`: who may read the files of the database, whatever the umask of who made them."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.host.clock import SystemClock
from shared.host.host_identity import HostIdentity
from shared.nas.writing import write_new_file
from shared.state.contents import Contents
from shared.state.host_records import NodeRecord
from shared.state.sessions.host_look_writing import VmsSeen, write_look
from shared.state.store import protocol, readable, reserve
from shared.state.store.create import create
from shared.state.store.database import Database
from shared.state.store.readable import Readable

SEEN = VmsSeen((), (), ())


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def hostile(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever the user's umask is."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def used(root: Path, wanted: Readable = "") -> Database:
    """A database with everything in it that is ever in one, made after it was set as wanted."""
    database = create(root, HostIdentity.of_this_machine("alpha"), SystemClock(), 2)
    readable.keep(root, wanted)
    for number in range(6):
        node = NodeRecord(f"host{number}", "machine")

        def change(contents: Contents, node: NodeRecord = node) -> Contents:
            return contents.with_node(node)

        database.commit_once(change, "test", "test")
    database.files.run(protocol.prune(2))
    database.publish_view()
    write_look(root / "node", database.identity, SystemClock(), SEEN, {})
    write_look(root / "node", database.identity, SystemClock(), SEEN, {})
    reserve.keep(root, 0)
    write_new_file(root / "tmp" / "left.by.a.crash", b"")
    return database


def modes(root: Path) -> dict[str, int]:
    return {
        str(path.relative_to(root)): stat.S_IMODE(path.lstat().st_mode) & 0o777
        for path in (root, *root.rglob("*"))
    }


def expected(root: Path, file: int, directory: int) -> dict[str, int]:
    return {
        str(path.relative_to(root)): directory if path.is_dir() else file
        for path in (root, *root.rglob("*"))
    }


@pytest.mark.broad
@pytest.mark.usefixtures("hostile")
def test_as_it_is_made_its_owner_and_group_read_and_write_it_and_nobody_else(
    tmp_path: Path,
) -> None:
    used(root := tmp_path / "vmstate")
    assert modes(root) == expected(root, 0o660, 0o770)


@pytest.mark.broad
@pytest.mark.usefixtures("hostile")
def test_what_is_made_afterwards_can_be_read_by_all_though_no_host_says_so(tmp_path: Path) -> None:
    used(root := tmp_path / "vmstate", "all")
    there = {name: mode for name, mode in modes(root).items() if name != reserve.NAME}
    assert there == {
        name: mode
        for name, mode in expected(root, 0o664, 0o775).items()
        if name != reserve.NAME  # nobody reads that
    }


@pytest.mark.usefixtures("hostile")
def test_heartbeats_can_be_read_too(tmp_path: Path) -> None:
    for wanted, mode in (("", 0o660), ("all", 0o664)):
        root = tmp_path / f"vmstate{wanted}"
        database = create(root, HostIdentity.of_this_machine("alpha"), SystemClock(), 2)
        readable.keep(root, wanted)  # type: ignore[arg-type]
        with database.session("test") as session:
            beat = root / "node" / session.id
            assert stat.S_IMODE(beat.stat().st_mode) == mode


def test_a_database_that_was_used_is_opened_and_closed_again_and_then_left_alone(
    tmp_path: Path,
) -> None:
    used(root := tmp_path / "vmstate")
    before = modes(root)
    assert readable.keep(root, "") == 0
    assert readable.keep(root, "all") == len(before)
    assert modes(root) == expected(root, 0o664, 0o775)
    assert readable.keep(root, "all") == 0
    assert readable.keep(root, "group") == len(before)
    assert modes(root) == before
    assert readable.keep(root, "group") == 0


def test_it_gives_no_right_to_write_and_follows_no_link(tmp_path: Path) -> None:
    used(root := tmp_path / "vmstate")
    (tmp_path / "secret").write_text("")
    (tmp_path / "secret").chmod(0o600)
    (root / "node" / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(root / "node" / "pipe", 0o600)
    (root / "gen" / "odd").mkdir(0o700)
    readable.keep(root, "all")
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert not [name for name, mode in modes(root).items() if mode & 0o002 and name != "node/link"]


def test_what_belongs_to_another_user_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(root := tmp_path / "vmstate")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("shared.state.store.readable.os.fchmod", refuse)
    assert readable.keep(root, "all") == 0
    assert modes(root) == expected(root, 0o660, 0o770)
